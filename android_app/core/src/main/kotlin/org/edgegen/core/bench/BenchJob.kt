package org.edgegen.core.bench

import kotlinx.serialization.json.JsonObject
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.device.Phone
import org.edgegen.core.device.requireMemory
import org.edgegen.core.draw.Engine
import java.time.OffsetDateTime
import java.time.ZoneOffset
import java.time.temporal.ChronoUnit

/** What a bench is told while it runs: the part, and how many of its runs are done. */
typealias BenchProgress = (part: String, done: Int, of: Int) -> Unit

/**
 * Measures every part of a bundle on one back end; each row is recorded as soon as it is whole.
 *
 * Memory is told of the first part alone, and only in a process that has run nothing before ([isFreshProcess]): what an
 * allocator keeps of networks that were closed hides what the next one takes.
 */
class BenchJob(
    private val bundle: Bundle,
    private val engine: Engine,
    private val backend: String,
    private val phone: Phone,
    private val versions: Map<String, String>,
    private val records: Records,
    private val settings: BenchSettings = BenchSettings(),
    private val isFreshProcess: Boolean = true,
    private val now: () -> String = ::utcNow,
) {
    /** The rows in the order of [PARTS]; throws [org.edgegen.core.Failure], keeping what was recorded. */
    fun run(isCancelled: () -> Boolean = { false }, progress: BenchProgress = { _, _, _ -> }): List<JsonObject> {
        requireMemory(bundle, backend, phone)
        return PARTS.map { part -> measured(part, isCancelled, progress).also(records::append) }
    }

    private fun measured(part: String, isCancelled: () -> Boolean, progress: BenchProgress): JsonObject {
        progress(part, 0, settings.runs)
        val before = phone.conditions()
        val timed = timedPart(bundle, engine, backend, part, settings.threads)
        val memory = if (isFreshProcess && part == PARTS.first()) phone else UntoldMemory
        val measurement = measure(timed, settings, memory, isCancelled = isCancelled) { done, of -> progress(part, done, of) }
        val surroundings = Surroundings(now(), phone.machine(), versions, before, phone.conditions())
        return measuredRow(bundle, backend, part, measurement, settings, surroundings)
    }
}

private fun utcNow(): String = OffsetDateTime.now(ZoneOffset.UTC).truncatedTo(ChronoUnit.SECONDS).toString()
