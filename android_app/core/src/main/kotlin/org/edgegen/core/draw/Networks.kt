package org.edgegen.core.draw

import org.edgegen.core.bundle.Bundle
import org.edgegen.core.text.TokenIds

/** What the text encoder gives, by name: text (1, T, 1, L), text_mask (1, L, 1, 1), pooled_text (1, T, 1, 1). */
typealias Condition = Map<String, FloatArray>

/**
 * The three networks of a bundle on one back end, whatever runs them; each is opened at its first use.
 *
 * A failure of the runtime is a [org.edgegen.core.Failure] of kind RUNTIME or NO_MEMORY.
 */
interface Networks : AutoCloseable {
    /** Opens a component now, so that its loading can be timed. */
    fun open(component: String)

    /** Closes a component, so that its memory is free for the next. */
    fun release(component: String)

    fun encode(ids: TokenIds): Condition

    /** The velocity (1, C, h, w) at a latent and its `timestep_features`. */
    fun velocity(latent: FloatArray, features: FloatArray, condition: Condition): FloatArray

    /** The picture (1, 3, H, W) in [0, 1] of a latent. */
    fun decode(latent: FloatArray): FloatArray
}

/** Opens the networks of a bundle on a back end, with so many threads. */
fun interface Engine {
    fun open(bundle: Bundle, backend: String, threads: Int): Networks
}
