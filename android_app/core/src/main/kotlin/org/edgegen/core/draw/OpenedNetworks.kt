package org.edgegen.core.draw

import org.edgegen.core.bundle.DECODER
import org.edgegen.core.bundle.TEXT_ENCODER
import org.edgegen.core.bundle.TRANSFORMER
import org.edgegen.core.text.TokenIds

/** Networks of components that a runtime loads one by one, each at its first use, and that take arrays by name. */
abstract class OpenedNetworks<Network : AutoCloseable> : Networks {
    private val opened = mutableMapOf<String, Network>()

    protected abstract fun load(component: String): Network

    /** float32 outputs by name, for inputs by name: FloatArray or IntArray. */
    protected abstract fun run(network: Network, inputs: Map<String, Any>): Map<String, FloatArray>

    override fun open(component: String) {
        network(component)
    }

    override fun release(component: String) {
        opened.remove(component)?.close()
    }

    override fun encode(ids: TokenIds): Condition =
        run(network(TEXT_ENCODER), ids.byEncoder.mapKeys { (encoder, _) -> "${encoder}_ids" })

    override fun velocity(latent: FloatArray, features: FloatArray, condition: Condition): FloatArray =
        run(network(TRANSFORMER), condition + mapOf("latent" to latent, "timestep_features" to features)).getValue("velocity")

    override fun decode(latent: FloatArray): FloatArray = run(network(DECODER), mapOf("latent" to latent)).getValue("image")

    override fun close() {
        opened.values.forEach(AutoCloseable::close)
        opened.clear()
    }

    private fun network(component: String): Network = opened.getOrPut(component) { load(component) }
}
