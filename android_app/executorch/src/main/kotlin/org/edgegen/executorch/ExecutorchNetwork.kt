package org.edgegen.executorch

import org.edgegen.core.bundle.Artifact
import org.edgegen.core.bundle.TensorSpec
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** One loaded component; inputs go in the manifest's order, outputs come in its order. */
internal class ExecutorchNetwork(private val artifact: Artifact, private val module: Module) : AutoCloseable {
    /** float32 outputs by name, for inputs by name: FloatArray or IntArray, as the manifest's dtype says. */
    fun run(inputs: Map<String, Any>): Map<String, FloatArray> =
        executorchErrors("running ${artifact.name}") {
            val values = artifact.inputs.map { EValue.from(tensorOf(it, inputs.getValue(it.name))) }
            val outputs = module.forward(*values.toTypedArray())
            check(outputs.size == artifact.outputs.size) { "${outputs.size} outputs instead of ${artifact.outputs.size}" }
            artifact.outputs.zip(outputs).associate { (spec, value) -> spec.name to valuesOf(spec, value.toTensor()) }
        }

    override fun close() = module.destroy()

    private fun tensorOf(spec: TensorSpec, values: Any): Tensor {
        val shape = spec.shape.map(Int::toLong).toLongArray()
        return when (values) {
            is FloatArray -> Tensor.fromBlob(values, shape)
            is IntArray -> Tensor.fromBlob(values, shape)
            else -> throw IllegalArgumentException("${spec.name} is a ${values::class.simpleName}")
        }
    }

    private fun valuesOf(spec: TensorSpec, tensor: Tensor): FloatArray {
        val shape = tensor.shape().map(Long::toInt)
        check(shape == spec.shape) { "${spec.name} has the shape $shape, the manifest says ${spec.shape}" }
        return tensor.dataAsFloatArray
    }
}
