package org.edgegen.onnx

import org.edgegen.core.bundle.Artifact
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.draw.OpenedNetworks

/** The networks of one bundle; a component is opened by [load] at its first use. */
internal class OnnxNetworks(private val bundle: Bundle, private val load: (Artifact) -> OnnxNetwork) :
    OpenedNetworks<OnnxNetwork>() {
    override fun load(component: String): OnnxNetwork = load(bundle.artifact(component, ONNX))

    override fun run(network: OnnxNetwork, inputs: Map<String, Any>): Map<String, FloatArray> = network.run(inputs)
}
