package org.edgegen.core.draw

import org.edgegen.core.bundle.TimestepDefinition
import kotlin.math.cos
import kotlin.math.exp
import kotlin.math.ln
import kotlin.math.sin

/** steps + 1 noise levels from 1 to 0, shifted toward noise: 4 steps at shift 3 give 1, 0.9, 0.75, 0.5, 0. */
fun flowSigmas(steps: Int, shift: Double): DoubleArray {
    val step = -1.0 / steps
    return DoubleArray(steps + 1) {
        val even = if (it == steps) 0.0 else it * step + 1.0
        shift * even / (1 + (shift - 1) * even)
    }
}

/** The transformer's input for a sigma, which becomes a float32 first; computed in float64. */
fun timestepFeatures(sigma: Double, definition: TimestepDefinition): FloatArray {
    val half = definition.size / 2
    val time = sigma.toFloat().toDouble()
    val angles = DoubleArray(half) { definition.scale * time * exp(-ln(definition.maxPeriod) * it / half) }
    return FloatArray(definition.size) { (if (it < half) cos(angles[it]) else sin(angles[it - half])).toFloat() }
}

/** Classifier-free guidance: away from the unconditional velocity; 1 leaves the conditional one. */
fun guide(conditional: FloatArray, unconditional: FloatArray, guidance: Double): FloatArray {
    val factor = guidance.toFloat()
    return FloatArray(conditional.size) { unconditional[it] + factor * (conditional[it] - unconditional[it]) }
}

/** x + change * velocity: an Euler step, or with minus sigma the x0 that a latent aims at. */
fun moved(x: FloatArray, change: Double, velocity: FloatArray): FloatArray {
    val factor = change.toFloat()
    return FloatArray(x.size) { x[it] + factor * velocity[it] }
}
