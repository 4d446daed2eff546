package org.edgegen.core.device

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonObject
import org.edgegen.core.Failure
import org.edgegen.core.FakePhone
import org.edgegen.core.Kind
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.bundle.MANIFEST
import org.edgegen.core.bundle.bundleFiles
import org.edgegen.core.bundle.write
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull

private const val MB = 1L shl 20

class ChoiceTest {
    @TempDir
    lateinit var folder: File

    private val narrow by lazy { bundle("low-android", 0.375, 10 * MB) }
    private val wide by lazy { bundle("full", 1.0, 200 * MB) }

    /** The small bundle under another tier, with weights of so many bytes and a transformer of its own. */
    private fun bundle(tier: String, width: Double, resident: Long): Bundle {
        var text = bundleFiles().getValue(MANIFEST).replace("low-android", tier).replace("\"width\": 0.375", "\"width\": $width")
        text = text.replace(Regex("\"resident_bytes\": [0-9]+"), "\"resident_bytes\": $resident")
        val hash = "%064d".format(resident)
        text = text.replace(Regex("(\"path\": \"onnx/transformer.onnx\", \"sha256\": \")[0-9a-f]+"), "$1$hash")
        return Bundle.open(write(File(folder, tier), bundleFiles() + (MANIFEST to text)), check = false)
    }

    private fun chosen(phone: FakePhone, predictions: Predictions = Predictions.NONE, rows: List<JsonObject> = emptyList(), asked: String? = null) =
        Chooser(phone, predictions, listOf("onnx")).choose(listOf(narrow, wide), rows, asked)?.let { it.bundle.manifest.tier to it.reason }

    private fun predictions(device: String, narrowMs: Int, wideMs: Int): Predictions {
        val (a, b) = listOf(narrow, wide).map { "${it.artifact("transformer", "onnx").sha256}/onnx" }
        return Predictions.parse("{\"devices\": [{\"name\": \"$device\", \"title\": \"Pixel 8\", \"chip\": \"Tensor G3\", " +
            "\"picture_ms\": {\"$a\": $narrowMs, \"$b\": $wideMs}}]}")
    }

    private fun row(bundle: Bundle, milliseconds: Int): JsonObject {
        val artifacts = bundle.manifest.components.filter { it.backend == "onnx" }.joinToString { "{\"sha256\": \"${it.sha256}\"}" }
        return Json.parseToJsonElement("{\"component\": \"picture\", \"backend\": \"onnx\", \"artifacts\": [$artifacts], " +
            "\"latency_ms\": {\"p50\": $milliseconds}}").jsonObject
    }

    @Test
    fun `the widest that fits the memory, where nothing else is known`() {
        assertEquals("full" to Reason.MEMORY, chosen(FakePhone()))
        assertEquals("low-android" to Reason.MEMORY, chosen(FakePhone(FreeMemory(300 * MB, 100 * MB, 2048 * MB))))
        assertEquals("low-android" to Reason.SMALLEST, chosen(FakePhone(FreeMemory(60 * MB, 20 * MB, 1024 * MB))))
        assertEquals("full" to Reason.MEMORY, chosen(FakePhone(free = null)))
    }

    @Test
    fun `the chip decides by what edgegen predicts for it`() {
        assertEquals("full" to Reason.PREDICTED, chosen(FakePhone(), predictions("pixel8", 300, 2000)))
        assertEquals("low-android" to Reason.PREDICTED, chosen(FakePhone(), predictions("pixel8", 300, 9000)))
        assertEquals("low-android" to Reason.PREDICTED, chosen(FakePhone(), predictions("of the same chip", 300, 9000)))
    }

    @Test
    fun `what was measured here counts more, and only for the same files`() {
        val slow = predictions("pixel8", 300, 9000)
        assertEquals("full" to Reason.MEASURED, chosen(FakePhone(), slow, listOf(row(wide, 9000), row(wide, 1500))))
        assertEquals("low-android" to Reason.PREDICTED, chosen(FakePhone(), slow, listOf(row(narrow, 1).minus("artifacts").let(::JsonObject))))
        assertEquals("low-android" to Reason.MEASURED, chosen(FakePhone(), rows = listOf(row(wide, 6000), row(narrow, 900))))
    }

    @Test
    fun `the user's choice comes first while it is there`() {
        assertEquals("low-android" to Reason.USER, chosen(FakePhone(), asked = "low-android"))
        assertEquals("full" to Reason.MEMORY, chosen(FakePhone(), asked = "gone"))
    }

    @Test
    fun `a phone is named as edgegen names it`() {
        assertEquals("pixel8", predictions("pixel8", 1, 1).deviceName("Google Pixel 8"))
        assertNull(predictions("pixel8", 1, 1).deviceName("Other"))
    }

    @Test
    fun `a runtime's error is put down to memory only where memory is short`() {
        val failure = Failure(Kind.RUNTIME, "exception during initialization")
        assertEquals(failure, trueCause(failure, wide, "onnx", FakePhone()))
        val short = FakePhone(FreeMemory(50 * MB, 0, 2048 * MB))
        val told = trueCause(failure, wide, "onnx", short)
        assertEquals(Kind.NO_MEMORY to failure, told.kind to told.cause)
        assertEquals(Kind.NO_MEMORY, assertFailsWith<Failure> { requireMemory(wide, "onnx", short) }.kind)
    }
}
