package org.edgegen.core.state

import org.edgegen.core.Failure
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.device.Phone
import org.edgegen.core.device.requireMemory
import org.edgegen.core.device.trueCause
import org.edgegen.core.draw.Engine
import org.edgegen.core.draw.Picture
import org.edgegen.core.draw.Pipeline
import org.edgegen.core.draw.Request
import org.edgegen.core.picture.Parameters
import org.edgegen.core.text.Tokenizers

/** Told of every step: how many are done, of how many, and what the last aims at. */
typealias OnStep = (index: Int, count: Int, preview: Picture?) -> Unit

/** Draws one picture with a bundle on a back end, and tells how it was made. */
class Drawing(private val bundle: Bundle, private val backend: String, private val engine: Engine, private val phone: Phone) {
    /** Throws [Failure], which names memory as the cause where memory is short, and CancellationException. */
    fun draw(request: Request, previews: Boolean, isCancelled: () -> Boolean, onStep: OnStep): Pair<Picture, Parameters> {
        requireMemory(bundle, backend, phone)
        val start = System.nanoTime()
        try {
            engine.open(bundle, backend, phone.machine().cores.coerceIn(1, MAX_THREADS)).use { networks ->
                val pipeline = Pipeline(bundle.manifest, Tokenizers.of(bundle), networks)
                onStep(0, request.steps, null)
                val drawn = pipeline.denoise(request, isCancelled = isCancelled) { step ->
                    val preview = if (previews && step.index < step.count) pipeline.decode(step.predicted) else null
                    onStep(step.index, step.count, preview)
                }
                val picture = pipeline.decode(drawn.latent)
                return picture to parameters(request, (System.nanoTime() - start) / 1e9, drawn.truncated)
            }
        } catch (failure: Failure) {
            throw trueCause(failure, bundle, backend, phone)
        }
    }

    private fun parameters(request: Request, seconds: Double, truncated: Boolean): Parameters {
        val manifest = bundle.manifest
        return Parameters(request.prompt, request.seed, request.steps, request.guidance, manifest.model, manifest.tier,
            manifest.bits, backend, seconds, truncated)
    }

    private companion object {
        const val MAX_THREADS = 4 // more than the fast cores of a phone slow each other down
    }
}
