package org.edgegen.core.bench

import org.edgegen.core.bundle.Bundle
import org.edgegen.core.bundle.COMPONENTS
import org.edgegen.core.bundle.DECODER
import org.edgegen.core.bundle.TEXT_ENCODER
import org.edgegen.core.bundle.TRANSFORMER
import org.edgegen.core.draw.Condition
import org.edgegen.core.draw.Engine
import org.edgegen.core.draw.Networks
import org.edgegen.core.draw.Pipeline
import org.edgegen.core.draw.Request
import org.edgegen.core.draw.timestepFeatures
import org.edgegen.core.noise.Noise
import org.edgegen.core.text.Tokenizers

/** The whole picture: text, every step, decoder. */
const val PICTURE = "picture"

/** What is measured of a bundle, in this order: the picture first, while the process is fresh and its memory tells. */
val PARTS = listOf(PICTURE) + COMPONENTS

private const val SEED = 0L
private const val MIDDLE = 0.5 // the sigma a single step is timed at

/** A part of a bundle on a back end, to be timed with the inputs that edgegen's own bench takes. */
fun timedPart(bundle: Bundle, engine: Engine, backend: String, part: String, threads: Int): Timed =
    if (part == PICTURE) TimedPicture(bundle, engine, backend, threads) else TimedComponent(bundle, engine, backend, part, threads)

private class TimedComponent(
    private val bundle: Bundle,
    private val engine: Engine,
    private val backend: String,
    private val component: String,
    private val threads: Int,
) : Timed {
    private lateinit var networks: Networks
    private lateinit var once: () -> Unit

    override fun open() {
        networks = engine.open(bundle, backend, threads)
        networks.open(component)
        once = onceOf()
    }

    override fun run() = once()

    override fun close() {
        if (::networks.isInitialized) networks.close()
    }

    private fun onceOf(): () -> Unit {
        val manifest = bundle.manifest
        val latent = Noise(SEED).normal(manifest.latentShape.reduce(Int::times))
        return when (component) {
            TEXT_ENCODER -> {
                val ids = Tokenizers.of(bundle).encode(manifest.prompts.first());
                { networks.encode(ids) }
            }
            TRANSFORMER -> {
                val features = timestepFeatures(MIDDLE, manifest.timestepFeatures)
                val condition = everyTokenReal();
                { networks.velocity(latent, features, condition) }
            }
            DECODER -> ({ networks.decode(latent) })
            else -> throw IllegalArgumentException("no component is named $component")
        }
    }

    /** A condition of noise in which no token is padding. */
    private fun everyTokenReal(): Condition {
        val noise = Noise(SEED)
        val specs = bundle.artifact(TRANSFORMER, backend).inputs.filter { it.name in setOf("text", "text_mask", "pooled_text") }
        return specs.associate { spec ->
            val size = spec.shape.reduce(Int::times)
            spec.name to if (spec.name == "text_mask") FloatArray(size) { 1f } else noise.normal(size)
        }
    }
}

private class TimedPicture(
    private val bundle: Bundle,
    private val engine: Engine,
    private val backend: String,
    private val threads: Int,
) : Timed {
    private lateinit var networks: Networks
    private lateinit var pipeline: Pipeline

    override fun open() {
        networks = engine.open(bundle, backend, threads)
        COMPONENTS.forEach(networks::open) // now, so that a picture's time is of drawing alone
        pipeline = Pipeline(bundle.manifest, Tokenizers.of(bundle), networks)
    }

    override fun run() {
        val request = Request.of(bundle.manifest, bundle.manifest.prompts.first(), SEED)
        pipeline.decode(pipeline.denoise(request, keepTextEncoder = true).latent)
    }

    override fun close() {
        if (::networks.isInitialized) networks.close()
    }
}
