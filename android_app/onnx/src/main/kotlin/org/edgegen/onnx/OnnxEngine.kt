package org.edgegen.onnx

import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtSession
import org.edgegen.core.Failure
import org.edgegen.core.Kind
import org.edgegen.core.bundle.Artifact
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.draw.Engine
import org.edgegen.core.draw.Networks

const val ONNX = "onnx"

/** Runs a bundle's ONNX files with ONNX Runtime on the CPU: the same classes on a desktop and on Android. */
class OnnxEngine : Engine {
    override fun open(bundle: Bundle, backend: String, threads: Int): Networks {
        require(backend == ONNX) { "the ONNX engine was asked for $backend" }
        return OnnxNetworks(bundle) { artifact -> OnnxNetwork(artifact, openSession(bundle, artifact, threads)) }
    }

    private fun openSession(bundle: Bundle, artifact: Artifact, threads: Int): OrtSession =
        runtimeErrors("loading ${artifact.path}") {
            OrtSession.SessionOptions().use { options ->
                options.setIntraOpNumThreads(threads)
                options.setInterOpNumThreads(1)
                options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR)
                artifact.options.forEach { (name, value) -> options.addConfigEntry(name, value) }
                environment.createSession(bundle.file(artifact).path, options)
            }
        }

    companion object {
        /** Made at the first use; it tells nobody what is run. */
        val environment: OrtEnvironment by lazy { OrtEnvironment.getEnvironment().apply { setTelemetry(false) } }

        /** The runtime's version, such as "1.23.2". */
        val version: String get() = environment.version
    }
}

/** Turns the runtime's errors into one line; an allocation that failed is NO_MEMORY. */
internal fun <T> runtimeErrors(doing: String, block: () -> T): T =
    try {
        block()
    } catch (error: OrtException) {
        throw failure(doing, error)
    } catch (error: OutOfMemoryError) {
        throw failure(doing, error)
    }

private val NO_MEMORY_WORDS = listOf("bad_alloc", "bad allocation", "failed to allocate", "out of memory", "cannot allocate")

private fun failure(doing: String, error: Throwable): Failure {
    val message = error.message.orEmpty().lineSequence().first().take(300)
    val isMemory = error is OutOfMemoryError || NO_MEMORY_WORDS.any { it in message.lowercase() }
    return if (isMemory) {
        Failure(Kind.NO_MEMORY, "There was not enough memory for $doing: $message.", "Close other apps, or choose a smaller bundle.", error)
    } else {
        Failure(Kind.RUNTIME, "ONNX Runtime failed at $doing: $message.", "Import the bundle again.", error)
    }
}
