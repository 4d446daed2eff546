package org.edgegen.onnx

import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import org.edgegen.core.bench.BenchSettings
import org.edgegen.core.bench.PARTS
import org.edgegen.core.device.LinuxMachine
import org.edgegen.core.number
import org.edgegen.core.state.AppFiles
import org.edgegen.core.state.SeparateBench
import org.edgegen.core.text
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertTrue

/** A real bundle measured on this machine; -Drows=FILE keeps the record, for `edgegen bench --import FILE`. */
class RecordTest {
    @TempDir
    lateinit var folder: File

    @Test
    fun `every part of a real bundle is measured twenty times and recorded`() {
        val bundle = realBundles().first()
        val files = AppFiles(folder)
        bundle.root.copyRecursively(File(files.inbox, bundle.root.name))
        val versions = mapOf("onnxruntime" to OnnxEngine.version)
        val engines = mapOf(ONNX to OnnxEngine())
        SeparateBench(files, engines, LinuxMachine(), versions, BenchSettings(seconds = 30.0), isFreshProcess = false).run(bundle.root.name)
        assertEquals("{\"state\":\"done\"", files.benchStatus.readText().substringBefore(','), files.benchStatus.readText())
        val rows = files.records.read()
        assertEquals(PARTS, rows.map { it.text("component") })
        for (row in rows) {
            val latency = row.getValue("latency_ms").jsonObject
            assertTrue(latency.getValue("runs").jsonArray.size >= 20 && latency.number("p50") > 0, row.text("component"))
            println("%s: %.2f ms".format(row.text("component"), latency.number("p50")))
        }
        val kept = System.getProperty("edgegen.rows").orEmpty()
        if (kept.isNotEmpty()) File(folder, AppFiles.RECORDS).copyTo(File(kept), overwrite = true)
    }
}
