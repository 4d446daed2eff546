package org.edgegen.core.draw

import kotlinx.serialization.json.jsonArray
import org.edgegen.core.bundle.TimestepDefinition
import org.edgegen.core.cases
import org.edgegen.core.floats
import org.edgegen.core.floatsOf
import org.edgegen.core.int
import org.edgegen.core.ints
import org.edgegen.core.number
import org.edgegen.core.numbers
import org.edgegen.core.sha256
import org.edgegen.core.text
import org.edgegen.core.vectors
import org.junit.jupiter.api.Test
import kotlin.math.abs
import kotlin.math.max
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertTrue

class SamplerTest {
    @Test
    fun `sigmas are edgegen's, bit for bit`() {
        for (case in cases("sigmas.json")) {
            val sigmas = flowSigmas(case.int("steps"), case.number("shift"))
            assertEquals(case.text("sha256"), sha256(sigmas), "$case")
            if ("sigmas" in case) assertEquals(case.numbers("sigmas"), sigmas.toList())
        }
    }

    @Test
    fun `features differ by one unit of the last place at most`() {
        val vectors = vectors("features.json")
        for (case in cases("features.json")) {
            val definition = TimestepDefinition(case.int("size"), vectors.number("scale"), vectors.number("max_period"), "cos,sin")
            val features = timestepFeatures(case.number("sigma"), definition)
            val wanted = case.floats("features")
            assertEquals(wanted.size, features.size)
            for (i in wanted.indices) {
                val unit = max(Math.ulp(wanted[i]), 1e-9f) // near 0 of a sine, an angle's own rounding is larger
                assertTrue(abs(wanted[i] - features[i]) <= unit, "feature $i of $case is ${features[i]}")
            }
        }
    }

    @Test
    fun `guidance is edgegen's, bit for bit`() {
        for (case in cases("guidance.json")) {
            val guided = guide(case.floats("conditional"), case.floats("unconditional"), case.number("guidance"))
            assertContentEquals(case.floats("guided"), guided)
        }
    }

    @Test
    fun `Euler steps are edgegen's, bit for bit`() {
        for (case in cases("euler.json")) {
            val sigmas = case.numbers("sigmas")
            var latent = case.floats("noise")
            case.getValue("velocities").jsonArray.map(::floatsOf).forEachIndexed { step, velocity ->
                val predicted = moved(latent, -sigmas[step], velocity)
                latent = moved(latent, sigmas[step + 1] - sigmas[step], velocity)
                assertContentEquals(floatsOf(case.getValue("predicted").jsonArray[step]), predicted)
                assertContentEquals(floatsOf(case.getValue("latents").jsonArray[step]), latent)
            }
        }
    }

    @Test
    fun `pixels round as edgegen's do`() {
        val vectors = vectors("pixels.json")
        val values = vectors.floats("values")
        val picture = Picture.of(values + values + values, values.size, 1)
        assertEquals(vectors.ints("pixels"), values.indices.map { picture.rgb[3 * it].toInt() and 0xff })
        assertEquals(values.size, picture.argb().size)
    }
}
