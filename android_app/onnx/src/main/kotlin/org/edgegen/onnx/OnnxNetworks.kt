package org.edgegen.onnx

import org.edgegen.core.bundle.Artifact
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.bundle.DECODER
import org.edgegen.core.bundle.TEXT_ENCODER
import org.edgegen.core.bundle.TRANSFORMER
import org.edgegen.core.draw.Condition
import org.edgegen.core.draw.Networks
import org.edgegen.core.text.TokenIds

/** The networks of one bundle; a component is opened by [load] at its first use. */
internal class OnnxNetworks(private val bundle: Bundle, private val load: (Artifact) -> OnnxNetwork) : Networks {
    private val opened = mutableMapOf<String, OnnxNetwork>()

    override fun open(component: String) {
        network(component)
    }

    override fun release(component: String) {
        opened.remove(component)?.close()
    }

    override fun encode(ids: TokenIds): Condition =
        network(TEXT_ENCODER).run(ids.byEncoder.mapKeys { (encoder, _) -> "${encoder}_ids" })

    override fun velocity(latent: FloatArray, features: FloatArray, condition: Condition): FloatArray =
        network(TRANSFORMER).run(condition + mapOf("latent" to latent, "timestep_features" to features)).getValue("velocity")

    override fun decode(latent: FloatArray): FloatArray = network(DECODER).run(mapOf("latent" to latent)).getValue("image")

    override fun close() {
        opened.values.forEach(OnnxNetwork::close)
        opened.clear()
    }

    private fun network(component: String): OnnxNetwork =
        opened.getOrPut(component) { load(bundle.artifact(component, ONNX)) }
}
