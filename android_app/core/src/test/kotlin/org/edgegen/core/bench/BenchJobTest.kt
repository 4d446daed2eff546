package org.edgegen.core.bench

import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import org.edgegen.core.Failure
import org.edgegen.core.FakeEngine
import org.edgegen.core.FakePhone
import org.edgegen.core.Kind
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.bundle.bundleFiles
import org.edgegen.core.bundle.write
import org.edgegen.core.device.FreeMemory
import org.edgegen.core.text
import org.edgegen.core.vectors
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import kotlin.coroutines.cancellation.CancellationException
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class BenchJobTest {
    @TempDir
    lateinit var folder: File

    private val bundle by lazy { Bundle.open(write(File(folder, "tiny"), bundleFiles())) }
    private val records by lazy { Records(File(folder, "measurements.jsonl")) }

    private fun job(phone: FakePhone) =
        BenchJob(bundle, FakeEngine { Thread.sleep(1) }, "onnx", phone, mapOf("app" to "0.1.0"), records, BenchSettings(seconds = 0.5))

    @Test
    fun `every part becomes a row with the fields of edgegen's example`() {
        val rows = job(FakePhone(thermal = mutableListOf("none", "light"))).run()
        assertEquals(PARTS, rows.map { it.text("component") })
        val example = vectors("rows.json").getValue("row").jsonObject
        for (row in rows) requireFields(example, row, row.text("component"))
        assertEquals(rows, records.read())
        val conditions = rows[0].getValue("conditions").jsonObject
        assertEquals("none" to "light", conditions.text("thermal_before") to conditions.text("thermal_after"))
        assertEquals("pixel8", rows[0].text("device"))
        assertEquals(200L, rows[0].getValue("memory").jsonObject.text("peak_over_base_bytes").toLong())
        assertEquals(3, rows.last().getValue("artifacts").jsonArray.size)
        assertEquals("4", rows.last().getValue("settings").jsonObject.text("steps"))
    }

    /** The same names, and values of the same kind, but for what may be null. */
    private fun requireFields(wanted: JsonObject, found: JsonObject, where: String) {
        assertEquals(wanted.keys, found.keys - "steps", where)
        for ((name, value) in wanted) {
            val other = found.getValue(name)
            if (value is JsonNull || other is JsonNull) continue
            assertEquals(value::class, other::class, "$where.$name")
            if (value is JsonObject && name != "versions") requireFields(value, other.jsonObject, "$where.$name")
        }
    }

    @Test
    fun `at least twenty runs are taken, or the time is spent`() {
        val quick = measure(Counted(1_000_000), BenchSettings(), FakePhone(), clock = clock)
        assertTrue(quick.runs.size >= 20 && quick.block == 10, "${quick.runs.size} runs in blocks of ${quick.block}")
        val slow = measure(Counted(4_000_000_000), BenchSettings(), FakePhone(), clock = clock)
        assertEquals(listOf(4000.0, 4000.0, 4000.0), slow.runs)
        assertEquals(1000.0, slow.loadMs)
    }

    private var time = 0L
    private val clock = { time }

    private inner class Counted(private val nanoseconds: Long) : Timed {
        override fun open() {
            time += 1_000_000_000
        }

        override fun run() {
            time += nanoseconds
        }

        override fun close() = Unit
    }

    @Test
    fun `a stop keeps what was recorded`() {
        var asked = 0
        assertFailsWith<CancellationException> {
            job(FakePhone()).run(isCancelled = { ++asked > 15 })
            Unit
        }
        assertTrue(records.read().size in 1 until PARTS.size, "${records.read().size} rows")
    }

    @Test
    fun `a peak that may be of what ran before is not told`() {
        val rows = job(FakePhone(canReset = false)).run()
        assertTrue(rows.all { it.getValue("memory") is JsonNull })
    }

    @Test
    fun `low memory is told before anything is loaded`() {
        val phone = FakePhone(FreeMemory(40L shl 20, 30L shl 20, 3L shl 30))
        assertEquals(Kind.NO_MEMORY, assertFailsWith<Failure> { job(phone).run() }.kind)
        assertEquals(emptyList(), records.read())
    }

    @Test
    fun `a line that was cut off is closed and passed over`() {
        File(folder, "measurements.jsonl").writeText("{\"source\": \"meas")
        records.append(JsonObject(emptyMap()))
        assertEquals(listOf(JsonObject(emptyMap())), records.read())
        assertEquals("{}", File(folder, "measurements.jsonl").readLines().last())
    }

}
