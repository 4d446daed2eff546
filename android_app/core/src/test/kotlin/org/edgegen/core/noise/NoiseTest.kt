package org.edgegen.core.noise

import org.edgegen.core.cases
import org.edgegen.core.floats
import org.edgegen.core.int
import org.edgegen.core.sha256
import org.edgegen.core.text
import org.junit.jupiter.api.Test
import java.math.BigInteger
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class NoiseTest {
    @Test
    fun `values are NumPy's, bit for bit`() {
        for (case in cases("noise.json")) {
            val values = Noise(case.text("seed").toLong()).normal(case.int("count"))
            assertContentEquals(case.floats("first"), values.copyOf(8), "seed ${case.text("seed")}")
            assertEquals(case.text("sha256"), sha256(values), "seed ${case.text("seed")}")
        }
    }

    @Test
    fun `a seed below zero is refused`() {
        assertFailsWith<IllegalArgumentException> { Noise(-1) }
    }

    @Test
    fun `the upper half of a product is that of big integers`() {
        val samples = listOf(0L, 1L, -1L, Long.MAX_VALUE, Long.MIN_VALUE, 0x123456789abcdefL, 4865540595714422341L)
        for (a in samples) {
            for (b in samples) {
                val product = BigInteger(java.lang.Long.toUnsignedString(a)) * BigInteger(java.lang.Long.toUnsignedString(b))
                assertEquals(product.shiftRight(64).toLong(), multiplyHigh(a, b), "$a * $b")
            }
        }
    }
}
