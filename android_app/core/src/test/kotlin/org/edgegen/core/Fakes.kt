package org.edgegen.core

import org.edgegen.core.bundle.Bundle
import org.edgegen.core.device.Conditions
import org.edgegen.core.device.FreeMemory
import org.edgegen.core.device.Machine
import org.edgegen.core.device.Phone
import org.edgegen.core.draw.Condition
import org.edgegen.core.draw.Engine
import org.edgegen.core.draw.Networks
import org.edgegen.core.text.TokenIds

/** A phone whose answers a test sets. */
class FakePhone(
    var free: FreeMemory? = FreeMemory(4L shl 30, 0, 8L shl 30),
    var thermal: MutableList<String> = mutableListOf("none"),
    private val canReset: Boolean = true,
    private val machine: Machine = Machine("pixel8", "Tensor G3", 9, 8L shl 30, "Android 16", "Google Pixel 8", "Google Tensor G3", "B1"),
) : Phone {
    override fun machine() = machine

    override fun conditions() = Conditions(false, 0.8, false, if (thermal.size > 1) thermal.removeAt(0) else thermal[0])

    override fun freeMemory() = free

    override fun currentBytes() = 100L

    override fun peakBytes() = 300L

    override fun resetPeak() = canReset
}

/** Networks of simple arithmetic with a bundle's shapes, which tell a test what is done with them. */
class FakeEngine(private val onVelocity: () -> Unit = {}) : Engine {
    val calls = java.util.Collections.synchronizedList(mutableListOf<String>())

    override fun open(bundle: Bundle, backend: String, threads: Int): Networks = FakeNetworks(bundle, calls, onVelocity)
}

private class FakeNetworks(private val bundle: Bundle, private val calls: MutableList<String>, private val onVelocity: () -> Unit) :
    Networks {
    override fun open(component: String) {
        calls += "open $component"
    }

    override fun release(component: String) {
        calls += "release $component"
    }

    override fun encode(ids: TokenIds): Condition {
        calls += "encode"
        return mapOf("text" to ids.byEncoder.values.flatMap { it.toList() }.map { it / 100f }.toFloatArray())
    }

    override fun velocity(latent: FloatArray, features: FloatArray, condition: Condition): FloatArray {
        calls += "velocity"
        onVelocity()
        return FloatArray(latent.size) { latent[it] * features[0] }
    }

    override fun decode(latent: FloatArray): FloatArray {
        calls += "decode"
        val (width, height) = bundle.manifest.resolution
        return FloatArray(3 * width * height) { (latent[it % latent.size] + 3) / 6 }
    }

    override fun close() {
        calls += "close"
    }
}
