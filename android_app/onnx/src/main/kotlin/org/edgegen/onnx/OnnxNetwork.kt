package org.edgegen.onnx

import ai.onnxruntime.NodeInfo
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import org.edgegen.core.Failure
import org.edgegen.core.Kind
import org.edgegen.core.bundle.Artifact
import org.edgegen.core.bundle.TensorSpec
import java.nio.FloatBuffer
import java.nio.IntBuffer

/** One opened component; a file whose inputs or outputs are not those of the manifest is a BAD_SHAPE [Failure]. */
internal class OnnxNetwork(private val artifact: Artifact, private val session: OrtSession) : AutoCloseable {
    init {
        try {
            requireSame(artifact.inputs, session.inputInfo)
            requireSame(artifact.outputs, session.outputInfo)
        } catch (failure: Failure) {
            session.close()
            throw failure
        }
    }

    /** float32 outputs by name, for inputs by name: FloatArray or IntArray, as the manifest's dtype says. */
    fun run(inputs: Map<String, Any>): Map<String, FloatArray> =
        runtimeErrors("running ${artifact.name}") {
            val tensors = artifact.inputs.associate { it.name to tensorOf(it, inputs.getValue(it.name)) }
            try {
                session.run(tensors).use { results ->
                    artifact.outputs.associate { it.name to valuesOf(results.get(it.name).get() as OnnxTensor) }
                }
            } finally {
                tensors.values.forEach(OnnxTensor::close)
            }
        }

    override fun close() = session.close()

    private fun tensorOf(spec: TensorSpec, values: Any): OnnxTensor {
        val shape = spec.shape.map(Int::toLong).toLongArray()
        return when (values) {
            is FloatArray -> OnnxTensor.createTensor(OnnxEngine.environment, FloatBuffer.wrap(values), shape)
            is IntArray -> OnnxTensor.createTensor(OnnxEngine.environment, IntBuffer.wrap(values), shape)
            else -> throw IllegalArgumentException("${spec.name} is a ${values::class.simpleName}")
        }
    }

    private fun valuesOf(tensor: OnnxTensor): FloatArray {
        val buffer = tensor.floatBuffer
        return FloatArray(buffer.remaining()).also(buffer::get)
    }

    private fun requireSame(specs: List<TensorSpec>, found: Map<String, NodeInfo>) {
        for (spec in specs) {
            val shape = (found[spec.name]?.info as? TensorInfo)?.shape?.toList()
            if (shape != spec.shape.map(Int::toLong)) {
                throw Failure(Kind.BAD_SHAPE, "${artifact.path} has ${spec.name} of shape $shape, the manifest says ${spec.shape}.",
                    "Export the bundle again.")
            }
        }
    }
}
