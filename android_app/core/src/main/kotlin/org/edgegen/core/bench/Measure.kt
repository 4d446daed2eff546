package org.edgegen.core.bench

import kotlin.coroutines.cancellation.CancellationException
import kotlin.math.ceil

private const val MIN_ROUNDS = 10
private const val LEAST_RUNS = 3 // however long they take
private const val BLOCK_MS = 20.0 // a block lasts about so long
private const val MAX_BLOCK = 10

/** How long to measure: until [runs] runs are done, or [seconds] have passed. */
data class BenchSettings(val runs: Int = 20, val seconds: Double = 10.0, val warmup: Int = 3, val threads: Int = 1) {
    init {
        require(runs >= 1 && warmup >= 0 && threads >= 1 && seconds > 0) { "$this cannot be measured with" }
    }
}

/** Something that can be timed. */
interface Timed : AutoCloseable {
    /** What is loaded before the first run; its time is kept apart. */
    fun open()

    fun run()
}

/** Bytes that the process occupies, now and at its highest; 0 where it is not told. */
interface ProcessMemory {
    fun currentBytes(): Long

    fun peakBytes(): Long

    /** Begins the peak anew; false where the system does not let us. */
    fun resetPeak(): Boolean
}

/** What was measured: [runs] in the order they were taken, milliseconds; [peakBytes] 0 where it is not told. */
class Measurement(
    val loadMs: Double,
    val firstMs: Double,
    val block: Int,
    val runs: List<Double>,
    val baseBytes: Long,
    val loadedBytes: Long,
    val peakBytes: Long,
) {
    val summary: Summary by lazy { summarize(runs) }
}

/** Told how many runs of how many are done. */
typealias Advance = (Int, Int) -> Unit

/** Opens and times [timed]: first run, warm-up, then blocks of runs; throws [CancellationException] when cancelled. */
fun measure(
    timed: Timed,
    settings: BenchSettings,
    memory: ProcessMemory,
    clock: () -> Long = System::nanoTime,
    isCancelled: () -> Boolean = { false },
    advance: Advance = { _, _ -> },
): Measurement =
    timed.use {
        val isFresh = memory.resetPeak()
        val former = memory.peakBytes()
        val base = memory.currentBytes()
        val load = milliseconds(clock, timed::open)
        val loaded = memory.peakBytes()
        val first = milliseconds(clock, timed::run)
        val warm = if (first < 1e3 * settings.seconds) List(settings.warmup) { milliseconds(clock, timed::run) } else emptyList()
        val block = blockOf((warm + first).min(), settings)
        val runs = mutableListOf<Double>()
        while (!isDone(runs, block, settings)) {
            if (isCancelled()) throw CancellationException("stopped after ${runs.size} runs")
            repeat(block) { runs += milliseconds(clock, timed::run) }
            advance(minOf(runs.size, settings.runs), settings.runs)
        }
        val peak = memory.peakBytes().takeIf { isFresh || it > former } ?: 0 // else it may be of what ran before
        Measurement(load, first, block, runs, base, loaded, peak)
    }

private fun blockOf(fastest: Double, settings: BenchSettings): Int =
    minOf(MAX_BLOCK, ceil(BLOCK_MS / fastest).toInt(), settings.runs)

private fun isDone(runs: List<Double>, block: Int, settings: BenchSettings): Boolean {
    val rounds = runs.size / block
    val enough = runs.size >= settings.runs && (rounds >= MIN_ROUNDS || settings.runs < MIN_ROUNDS)
    return enough || (runs.size >= minOf(LEAST_RUNS, settings.runs) && runs.sum() >= 1e3 * settings.seconds)
}

private fun milliseconds(clock: () -> Long, block: () -> Unit): Double {
    val start = clock()
    block()
    return (clock() - start) / 1e6
}
