package org.edgegen.onnx

import kotlinx.serialization.json.JsonObject
import org.edgegen.core.bundle.Bundle
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

class DrawTest {
    @Test
    fun `pictures are edgegen's, and noise, ids and sigmas bit for bit`() {
        for (bundle in realBundles()) {
            OnnxEngine().open(bundle, ONNX, threads = 1).use { networks ->
                val worst = expected(bundle).minOf { case -> compare(bundle, networks, case) }
                println("${bundle.title}: ${expected(bundle).size} pictures, the worst at %.1f dB".format(worst))
            }
        }
    }

    private fun compare(bundle: Bundle, networks: Networks, case: JsonObject): Double {
        val manifest = bundle.manifest
        val tokenizers = Tokenizers.of(bundle)
        val request = Request(case.text("prompt"), case.text("seed").toLong(), case.int("steps"), case.number("guidance"))
        val ids = tokenizers.encode(request.prompt).byEncoder
        for (encoder in listOf("word", "byte")) assertEquals(case.ints(encoder), ids.getValue(encoder).toList())
        assertEquals(case.numbers("sigmas"), flowSigmas(request.steps, manifest.shift).toList())
        if (request.steps == manifest.steps) assertEquals(case.numbers("sigmas"), manifest.sigmas)
        assertEquals(case.text("noise"), sha256(Noise(request.seed).normal(manifest.latentShape.reduce(Int::times))))

        val values = networks.decode(Pipeline(manifest, tokenizers, networks).denoise(request).latent)
        val decibels = psnr(floats(File(expectedFolder(bundle), "${case.text("name")}.f32")), values)
        assertTrue(decibels >= FLOOR_DB, "${bundle.title}, ${request.prompt}: $decibels dB, the floor is $FLOOR_DB dB")
        requirePixels(bundle, case, values)
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
