package org.edgegen.core.bench

import org.edgegen.core.Failure
import org.edgegen.core.Kind
import kotlin.math.sqrt

private const val TRIM = 0.1 // of the runs, left out at either end of the trimmed mean

/** A trimmed coefficient of variation above which the median of 20 runs is uncertain by 7 % and more. */
const val NOISE_LIMIT = 0.25

/** Milliseconds of [n] runs; `cv` is the standard deviation over the mean, `cvTrimmed` without the runs trimmed. */
data class Summary(
    val n: Int,
    val min: Double,
    val p50: Double,
    val p90: Double,
    val p95: Double,
    val max: Double,
    val trimmedMean: Double,
    val cv: Double,
    val cvTrimmed: Double,
) {
    val isNoisy: Boolean get() = cvTrimmed > NOISE_LIMIT
}

/** The statistics of edgegen's bench; no runs, or one that is no positive number, is a BAD_INPUT [Failure]. */
fun summarize(runs: List<Double>): Summary {
    if (runs.isEmpty() || runs.any { !it.isFinite() || it <= 0 }) {
        throw Failure(Kind.BAD_INPUT, "${runs.size} runs, not all of them positive milliseconds: nothing to summarize.")
    }
    val sorted = runs.sorted()
    val cut = (TRIM * sorted.size).toInt()
    val kept = sorted.subList(cut, sorted.size - cut)
    return Summary(runs.size, sorted.first(), percentile(sorted, 0.5), percentile(sorted, 0.9), percentile(sorted, 0.95),
        sorted.last(), kept.average(), variation(runs), variation(kept))
}

/** Between the two nearest runs, as NumPy's percentile. */
private fun percentile(sorted: List<Double>, share: Double): Double {
    val place = share * (sorted.size - 1)
    val below = place.toInt()
    val above = minOf(below + 1, sorted.size - 1)
    return sorted[below] + (place - below) * (sorted[above] - sorted[below])
}

/** With n - 1 degrees of freedom; 0 for a single run. */
private fun variation(runs: List<Double>): Double {
    if (runs.size < 2) return 0.0
    val mean = runs.average()
    return sqrt(runs.sumOf { (it - mean) * (it - mean) } / (runs.size - 1)) / mean
}
