package org.edgegen.executorch

import org.edgegen.core.Failure
import org.edgegen.core.Kind
import org.edgegen.core.bundle.Artifact
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.draw.Engine
import org.edgegen.core.draw.Networks
import org.pytorch.executorch.Module

const val EXECUTORCH = "executorch"

/** Runs a bundle's .pte files with ExecuTorch; on a phone only, since it has no library for desktops. */
class ExecutorchEngine : Engine {
    override fun open(bundle: Bundle, backend: String, threads: Int): Networks {
        require(backend == EXECUTORCH) { "the ExecuTorch engine was asked for $backend" }
        return ExecutorchNetworks(bundle) { artifact -> ExecutorchNetwork(artifact, load(bundle, artifact, threads)) }
    }

    private fun load(bundle: Bundle, artifact: Artifact, threads: Int): Module =
        executorchErrors("loading ${artifact.path}") {
            Module.load(bundle.file(artifact).path, Module.LOAD_MODE_MMAP, threads).also { it.loadMethod("forward") }
        }
}

/** Turns whatever the library throws into one line. */
internal fun <T> executorchErrors(doing: String, block: () -> T): T =
    try {
        block()
    } catch (error: OutOfMemoryError) {
        throw Failure(Kind.NO_MEMORY, "There was not enough memory for $doing.", "Close other apps, or choose a smaller bundle.", error)
    } catch (error: RuntimeException) { // its own exceptions, and those of JNI, are of this kind
        val message = error.message.orEmpty().lineSequence().first().take(300)
        throw Failure(Kind.RUNTIME, "ExecuTorch failed at $doing: $message.", "Import the bundle again.", error)
    }
