package org.edgegen.onnx

import kotlinx.serialization.json.JsonObject
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.bundle.MANIFEST
import org.edgegen.core.bundle.TEXT_ENCODER
import org.edgegen.core.draw.Networks
import org.edgegen.core.draw.Picture
import org.edgegen.core.draw.Pipeline
import org.edgegen.core.draw.Request
import org.edgegen.core.draw.flowSigmas
import org.edgegen.core.int
import org.edgegen.core.ints
import org.edgegen.core.noise.Noise
import org.edgegen.core.number
import org.edgegen.core.numbers
import org.edgegen.core.sha256
import org.edgegen.core.text
import org.edgegen.core.text.Tokenizers
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import javax.imageio.ImageIO
import kotlin.coroutines.cancellation.CancellationException
import kotlin.math.abs
import kotlin.math.log10
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

private const val FLOOR_DB = 60.0

/** With 8-bit activations two versions of ONNX Runtime round differently: 1.28 and 1.32 gave 53.6 dB in Python alike. */
private const val INTEGER_FLOOR_DB = 40.0

class DrawTest {
    @TempDir
    lateinit var folder: File

    @Test
    fun `pictures are edgegen's, and noise, ids and sigmas bit for bit`() {
        for (bundle in realBundles()) {
            val isQuantized = bundle.manifest.components.any { it.options.isNotEmpty() }
            val asShipped = if (isQuantized && expectedVersion(bundle) != OnnxEngine.version) INTEGER_FLOOR_DB else FLOOR_DB
            report(bundle, expected(bundle).minOf { compare(bundle, bundle, it, ".f32", asShipped) }, "as shipped", asShipped)
            if (!isQuantized) continue
            val float = inFloat32(bundle)
            report(bundle, expected(bundle).minOf { compare(bundle, float, it, ".fp32.f32", FLOOR_DB) }, "float32 activations", FLOOR_DB)
        }
    }

    private fun report(bundle: Bundle, worst: Double, how: String, floor: Double) =
        println("${bundle.title}, $how: ${expected(bundle).size} pictures, the worst at %.1f dB, floor %.0f dB".format(worst, floor))

    /** A copy of the bundle whose quantized weights meet float32 activations. */
    private fun inFloat32(bundle: Bundle): Bundle {
        val copy = File(folder, bundle.root.name)
        bundle.root.copyRecursively(copy)
        val manifest = File(copy, MANIFEST)
        val level = Regex("(\"session.qdq_matmulnbits_accuracy_level\": )\"4\"")
        manifest.writeText(manifest.readText().also { check(level in it) }.replace(level, "$1\"1\""))
        return Bundle.open(copy)
    }

    /** Decibels of one picture that [drawn] draws, against what edgegen drew of [bundle]. */
    private fun compare(bundle: Bundle, drawn: Bundle, case: JsonObject, suffix: String, floor: Double): Double {
        val manifest = drawn.manifest
        val tokenizers = Tokenizers.of(bundle)
        val request = Request(case.text("prompt"), case.text("seed").toLong(), case.int("steps"), case.number("guidance"))
        val ids = tokenizers.encode(request.prompt).byEncoder
        for (encoder in listOf("word", "byte")) assertEquals(case.ints(encoder), ids.getValue(encoder).toList())
        assertEquals(case.numbers("sigmas"), flowSigmas(request.steps, manifest.shift).toList())
        if (request.steps == manifest.steps) assertEquals(case.numbers("sigmas"), manifest.sigmas)
        assertEquals(case.text("noise"), sha256(Noise(request.seed).normal(manifest.latentShape.reduce(Int::times))))

        val values = OnnxEngine().open(drawn, ONNX, threads = 1).use { networks ->
            networks.decode(Pipeline(manifest, tokenizers, networks).denoise(request).latent)
        }
        val decibels = psnr(floats(File(expectedFolder(bundle), case.text("name") + suffix)), values)
        assertTrue(decibels >= floor, "${bundle.title}, ${request.prompt}: $decibels dB, the floor is $floor dB")
        if (suffix == ".f32" && floor == FLOOR_DB) requirePixels(bundle, case, values)
        return decibels
    }

    /** The 8-bit picture is that of `edgegen generate`, but for values that lie on the edge between two. */
    private fun requirePixels(bundle: Bundle, case: JsonObject, values: FloatArray) {
        val (width, height) = bundle.manifest.resolution
        val image = ImageIO.read(File(expectedFolder(bundle), "${case.text("name")}.png"))
        val wanted = image.getRGB(0, 0, width, height, null, 0, width)
        val found = Picture.of(values, width, height).argb()
        val differing = wanted.indices.count { wanted[it] != found[it] }
        assertTrue(differing <= wanted.size / 100, "$differing of ${wanted.size} pixels differ")
    }

    @Test
    fun `the text encoder is closed before the first step, and a stop takes effect between steps`() {
        val bundle = realBundles().first()
        OnnxEngine().open(bundle, ONNX, threads = 1).use { real ->
            val released = mutableListOf<String>()
            val networks = object : Networks by real {
                override fun release(component: String) = real.release(component).also { released += component }
            }
            val steps = mutableListOf<Int>()
            val pipeline = Pipeline(bundle.manifest, Tokenizers.of(bundle), networks)
            assertFailsWith<CancellationException> {
                pipeline.denoise(Request.of(bundle.manifest, "a dog"), isCancelled = { steps.size == 2 }) { step ->
                    assertEquals(listOf(TEXT_ENCODER), released)
                    steps += step.index
                }
            }
            assertContentEquals(listOf(1, 2), steps)
        }
    }
}

private fun floats(file: File): FloatArray {
    val buffer = ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
    return FloatArray(buffer.remaining()).also(buffer::get)
}

/** Of values in [0, 1]; values that are equal are infinitely close. */
private fun psnr(wanted: FloatArray, found: FloatArray): Double {
    require(wanted.size == found.size && found.all { it.isFinite() })
    val error = wanted.indices.sumOf { abs(wanted[it] - found[it]).toDouble().let { d -> d * d } } / wanted.size
    return if (error == 0.0) Double.POSITIVE_INFINITY else -10 * log10(error)
}
