package org.edgegen.core.state

import org.edgegen.core.Failure
import org.edgegen.core.Kind
import org.edgegen.core.bench.BenchJob
import org.edgegen.core.bench.BenchSettings
import org.edgegen.core.bench.BenchStatus
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.device.Phone
import org.edgegen.core.draw.Engine
import java.io.File

/**
 * A bench in a process of its own: takes a bundle of the app, or one that `adb push` left in the inbox, measures it on
 * every back end that it and the app have, and keeps telling its status in a file.
 */
class SeparateBench(
    private val files: AppFiles,
    private val engines: Map<String, Engine>,
    private val phone: Phone,
    private val versions: Map<String, String>,
    private val settings: BenchSettings = BenchSettings(),
    private val isFreshProcess: Boolean = true,
) {
    /** Never throws what is expected: a failure is the last status. */
    fun run(name: String) {
        val last = try {
            tell(BenchStatus(BenchStatus.RUNNING))
            measure(bundle(name))
            BenchStatus(BenchStatus.DONE)
        } catch (failure: Failure) {
            BenchStatus(BenchStatus.FAILED, message = "${failure.message} ${failure.remedy}".trim(), kind = failure.kind.word)
        } catch (error: OutOfMemoryError) {
            BenchStatus(BenchStatus.FAILED, message = "The app ran out of memory: ${error.message}.", kind = Kind.NO_MEMORY.word)
        }
        tell(last)
    }

    private fun bundle(name: String): Bundle {
        val pushed = File(files.inbox, name)
        if (files.waiting().any { it == pushed }) return files.bundles.importFolder(pushed)
        return files.bundles.list().firstOrNull { it.key == name }
            ?: throw Failure(Kind.NO_BUNDLE, "There is no bundle named $name here.", "Push it into the inbox first.")
    }

    private fun measure(bundle: Bundle) {
        val backends = engines.keys.filter { it in bundle.manifest.wholeBackends }
        if (backends.isEmpty()) bundle.backend(engines.keys.toList()) // says what is missing
        for (backend in backends) {
            val isFresh = isFreshProcess && backend == backends.first()
            val job = BenchJob(bundle, engines.getValue(backend), backend, phone, versions, files.records, settings, isFresh)
            job.run { part, done, of -> tell(BenchStatus(BenchStatus.RUNNING, "$part, $backend", done, of)) }
        }
    }

    private fun tell(status: BenchStatus) = status.write(files.benchStatus)
}
