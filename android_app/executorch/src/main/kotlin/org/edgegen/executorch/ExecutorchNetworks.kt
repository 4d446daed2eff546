package org.edgegen.executorch

import org.edgegen.core.bundle.Artifact
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.draw.OpenedNetworks

/** The networks of one bundle; a component is loaded by [load] at its first use. */
internal class ExecutorchNetworks(private val bundle: Bundle, private val load: (Artifact) -> ExecutorchNetwork) :
    OpenedNetworks<ExecutorchNetwork>() {
    override fun load(component: String): ExecutorchNetwork = load(bundle.artifact(component, EXECUTORCH))

    override fun run(network: ExecutorchNetwork, inputs: Map<String, Any>): Map<String, FloatArray> = network.run(inputs)
}
