package org.edgegen.core.draw

import org.edgegen.core.Failure
import org.edgegen.core.Kind
import org.edgegen.core.bundle.Manifest
import org.edgegen.core.bundle.TEXT_ENCODER
import org.edgegen.core.noise.Noise
import org.edgegen.core.text.Tokenizers
import kotlin.coroutines.cancellation.CancellationException

/** What to draw. */
data class Request(val prompt: String, val seed: Long, val steps: Int, val guidance: Double) {
    init {
        if (seed < 0) throw Failure(Kind.BAD_INPUT, "Seed $seed is outside 0 to ${Long.MAX_VALUE}.")
        if (steps !in 1..1000) throw Failure(Kind.BAD_INPUT, "Steps $steps is outside 1 to 1000.")
        if (!(guidance >= 0 && guidance < 100)) throw Failure(Kind.BAD_INPUT, "Guidance $guidance is outside 0 to 100.")
    }

    companion object {
        /** A prompt drawn as the bundle is meant to. */
        fun of(manifest: Manifest, prompt: String, seed: Long = 0) =
            Request(prompt, seed, manifest.steps, manifest.guidance)
    }
}

/** A step that was taken: the latent after it and the x0 it aims at. */
class Step(val index: Int, val count: Int, val latent: FloatArray, val predicted: FloatArray)

/** The last latent, and whether the prompt was longer than the text encoders take. */
class Drawn(val latent: FloatArray, val truncated: Boolean)

/** Text to latent to picture with any networks, one request at a time. */
class Pipeline(private val manifest: Manifest, private val tokenizers: Tokenizers, private val networks: Networks) {
    /**
     * Draws; [onStep] is told of every step, and between steps [isCancelled] is asked.
     *
     * The text encoder is closed before the first step unless [keepTextEncoder]. Throws [CancellationException] when
     * cancelled and [Failure] of kind NOT_FINITE when the latent leaves the numbers.
     */
    fun denoise(
        request: Request,
        keepTextEncoder: Boolean = false,
        isCancelled: () -> Boolean = { false },
        onStep: (Step) -> Unit = {},
    ): Drawn {
        val (conditions, truncated) = conditions(request)
        if (!keepTextEncoder) networks.release(TEXT_ENCODER)
        val sigmas = sigmas(request.steps)
        var latent = Noise(request.seed).normal(manifest.latentShape.reduce(Int::times))
        for (index in 1..request.steps) {
            if (isCancelled()) throw CancellationException("stopped before step $index of ${request.steps}")
            val (sigma, next) = sigmas[index - 1] to sigmas[index]
            val velocity = velocity(latent, sigma, conditions, request.guidance)
            val predicted = moved(latent, -sigma, velocity)
            latent = moved(latent, next - sigma, velocity)
            requireFinite(latent, index, request.steps)
            onStep(Step(index, request.steps, latent, predicted))
        }
        return Drawn(latent, truncated)
    }

    fun decode(latent: FloatArray): Picture = Picture.of(networks.decode(latent), manifest.resolution[0], manifest.resolution[1])

    /** The manifest's own noise levels, or those that its shift gives for another number of steps. */
    private fun sigmas(steps: Int): DoubleArray =
        if (steps == manifest.steps) manifest.sigmas.toDoubleArray() else flowSigmas(steps, manifest.shift)

    /** The prompt's condition and, where guidance needs it, that of the empty prompt. */
    private fun conditions(request: Request): Pair<List<Condition>, Boolean> {
        val prompts = if (request.guidance == 1.0) listOf(request.prompt) else listOf(request.prompt, "")
        val ids = prompts.map(tokenizers::encode)
        return ids.map(networks::encode) to ids.first().truncated
    }

    private fun velocity(latent: FloatArray, sigma: Double, conditions: List<Condition>, guidance: Double): FloatArray {
        val features = timestepFeatures(sigma, manifest.timestepFeatures)
        val velocities = conditions.map { networks.velocity(latent, features, it) }
        return if (velocities.size == 1) velocities[0] else guide(velocities[0], velocities[1], guidance)
    }
}

private fun requireFinite(latent: FloatArray, index: Int, count: Int) {
    if (latent.any { !it.isFinite() }) {
        throw Failure(Kind.NOT_FINITE, "The latent is not finite after step $index of $count.", "Run edgegen verify on this bundle.")
    }
}
