package org.edgegen.core.device

import org.edgegen.core.Failure
import org.edgegen.core.Kind
import org.edgegen.core.bundle.Bundle

private const val COPIES = 3 // of the weights at the worst moment of loading: the file, its graph, the packed weights
private const val APP_BYTES = 48L shl 20 // of the runtime, the latents and the picture

/** Bytes that drawing takes at its worst: one network at a time is loaded, the largest decides. */
fun neededBytes(bundle: Bundle, backend: String): Long =
    COPIES * bundle.manifest.components.filter { it.backend == backend }.maxOf { it.residentBytes } + APP_BYTES

/**
 * Refuses to load what the phone has no memory for: a runtime that meets the limit later fails with an error that names
 * anything but memory, or is killed without a word.
 */
fun requireMemory(bundle: Bundle, backend: String, phone: Phone) {
    val free = phone.freeMemory() ?: return
    val needed = neededBytes(bundle, backend)
    val usable = free.availableBytes - free.thresholdBytes
    if (needed > usable) throw lowMemory(bundle, needed, usable, free.totalBytes, null)
}

/** The failure itself, or, if by now memory is short, one that says so: the error that a runtime met is then its effect. */
fun trueCause(failure: Failure, bundle: Bundle, backend: String, phone: Phone): Failure {
    val free = phone.freeMemory() ?: return failure
    val usable = free.availableBytes - free.thresholdBytes
    val isShort = failure.kind in setOf(Kind.RUNTIME, Kind.NOT_FINITE) && usable < neededBytes(bundle, backend)
    return if (isShort) lowMemory(bundle, neededBytes(bundle, backend), usable, free.totalBytes, failure) else failure
}

private fun lowMemory(bundle: Bundle, needed: Long, usable: Long, total: Long, cause: Throwable?) =
    Failure(
        Kind.NO_MEMORY,
        "${bundle.title} needs ${megabytes(needed)} MB of memory to draw; ${megabytes(maxOf(usable, 0))} MB of the phone's " +
            "${megabytes(total)} MB are free.",
        "Close other apps, or choose a smaller bundle.",
        cause,
    )

private fun megabytes(bytes: Long) = bytes / 1_000_000
