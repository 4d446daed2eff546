package org.edgegen.core.state

import org.edgegen.core.FakeEngine
import org.edgegen.core.FakePhone
import org.edgegen.core.bench.BenchSettings
import org.edgegen.core.bench.BenchStatus
import org.edgegen.core.bench.PARTS
import org.edgegen.core.bundle.bundleFiles
import org.edgegen.core.bundle.write
import org.edgegen.core.text
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertNull

class SeparateBenchTest {
    @TempDir
    lateinit var folder: File

    private val files by lazy { AppFiles(File(folder, "own").apply { mkdirs() }, File(folder, "shared").apply { mkdirs() }) }

    private fun run(name: String): BenchStatus? {
        val engines = mapOf("onnx" to FakeEngine(), "executorch" to FakeEngine())
        SeparateBench(files, engines, FakePhone(), emptyMap(), BenchSettings(runs = 2, seconds = 0.1)).run(name)
        return BenchStatus.read(files.benchStatus)
    }

    @Test
    fun `a pushed bundle is imported and measured on every back end`() {
        write(File(files.inbox, "low"), bundleFiles())
        assertEquals(BenchStatus(BenchStatus.DONE), run("low"))
        val rows = files.records.read().map { it.text("backend") to it.text("component") }
        assertEquals(listOf("onnx", "executorch").flatMap { backend -> PARTS.map { backend to it } }, rows)
        assertEquals(1, files.bundles.list().size)
    }

    @Test
    fun `what cannot be measured is the last status`() {
        assertEquals("no_bundle", run("nothing")?.kind)
        assertEquals("no_bundle", run("../own")?.kind)
        write(File(files.inbox, "low"), bundleFiles() + ("onnx/decoder.onnx" to "other"))
        assertEquals(BenchStatus.FAILED to "changed_file", run("low")?.let { it.state to it.kind })
        assertEquals(emptyList(), files.records.read())
    }

    @Test
    fun `a status that is not there, or broken, is none`() {
        assertNull(BenchStatus.read(files.benchStatus))
        files.benchStatus.writeText("{")
        assertNull(BenchStatus.read(files.benchStatus))
    }
}
