package org.edgegen.core.bench

import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.edgegen.core.Failure
import org.edgegen.core.cases
import org.edgegen.core.number
import org.edgegen.core.numbers
import org.edgegen.core.vectors
import org.junit.jupiter.api.Test
import kotlin.math.abs
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class StatisticsTest {
    @Test
    fun `summaries are edgegen's`() {
        for (case in cases("statistics.json")) {
            val found = summarize(case.numbers("runs"))
            val wanted = case.getValue("summary").jsonObject
            val pairs = mapOf("n" to found.n.toDouble(), "min" to found.min, "p50" to found.p50, "p90" to found.p90, "p95" to found.p95,
                "max" to found.max, "trimmed_mean" to found.trimmedMean, "cv" to found.cv, "cv_trimmed" to found.cvTrimmed)
            assertEquals(wanted.keys, pairs.keys)
            pairs.forEach { (name, value) -> assertTrue(abs(value - wanted.number(name)) <= 1e-9 * abs(value), "$name of $case is $value") }
        }
    }

    @Test
    fun `what is no time is refused, and the limit of noise is edgegen's`() {
        val vectors = vectors("statistics.json")
        for (runs in vectors.getValue("refused").jsonArray) {
            assertFailsWith<Failure> { summarize(runs.jsonArray.map { it.jsonPrimitive.content.toDouble() }) }
        }
        assertFailsWith<Failure> { summarize(listOf(1.0, Double.NaN)) }
        assertEquals(vectors.number("noise_limit"), NOISE_LIMIT)
    }
}
