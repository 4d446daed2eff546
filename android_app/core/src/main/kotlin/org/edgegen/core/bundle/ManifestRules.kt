package org.edgegen.core.bundle

import org.edgegen.core.Failure
import org.edgegen.core.Kind
import kotlin.math.abs

private const val MAX_STEPS = 1000
private const val MAX_GUIDANCE = 100.0
private const val MAX_ELEMENTS = 1L shl 28 // of one tensor: 1 GiB of float32
private val KNOWN_OPTIONS = setOf("session.qdq_matmulnbits_accuracy_level") // of sessions that a manifest may set
private const val TOLERANCE = 1e-6 // of the first and last sigma

/** Refuses a manifest whose values cannot be drawn with, although each has the right type. */
internal fun requireFit(manifest: Manifest) {
    requireSampler(manifest)
    requireSigmas(manifest)
    requireLatent(manifest)
    manifest.components.forEach { requireArtifact(manifest, it) }
    if (manifest.wholeBackends.isEmpty()) {
        throw refused(Kind.INCOMPLETE, "no back end has all of ${COMPONENTS.joinToString()}")
    }
}

private fun requireSampler(manifest: Manifest) {
    if (manifest.steps !in 1..MAX_STEPS) throw refused(Kind.BAD_VALUE, "steps ${manifest.steps} is outside 1 to $MAX_STEPS")
    if (manifest.shift <= 0) throw refused(Kind.BAD_VALUE, "shift ${manifest.shift} is not above 0")
    if (manifest.guidance < 0 || manifest.guidance >= MAX_GUIDANCE) {
        throw refused(Kind.BAD_VALUE, "guidance ${manifest.guidance} is outside 0 to $MAX_GUIDANCE")
    }
    val features = manifest.timestepFeatures
    if (features.size < 2 || features.size % 2 != 0 || features.maxPeriod <= 0 || features.order != "cos,sin") {
        throw refused(Kind.BAD_VALUE, "timestep_features $features are not an even number of cosines and sines")
    }
}

private fun requireSigmas(manifest: Manifest) {
    val sigmas = manifest.sigmas
    val ends = sigmas.size == manifest.steps + 1 && abs(sigmas.first() - 1) < TOLERANCE && abs(sigmas.last()) < TOLERANCE
    if (!ends || sigmas.zipWithNext().any { (before, after) -> after >= before }) {
        throw refused(Kind.BAD_SIGMAS, "sigmas $sigmas are not ${manifest.steps} + 1 levels that fall from 1 to 0")
    }
}

private fun requireLatent(manifest: Manifest) {
    val shapes = listOf(manifest.latentShape, pictureShape(manifest))
    val bad = shapes.firstOrNull { it.size != 4 || it[0] != 1 || !isUsable(it) } ?: return
    throw refused(Kind.BAD_SHAPE, "$bad is no shape of one latent or picture")
}

/** (1, 3, H, W). */
private fun pictureShape(manifest: Manifest) = listOf(1, 3, manifest.resolution[1], manifest.resolution[0])

private fun isUsable(shape: List<Int>): Boolean =
    shape.all { it > 0 } && shape.fold(1L) { product, size -> minOf(product * size, MAX_ELEMENTS + 1) } <= MAX_ELEMENTS

private fun requireArtifact(manifest: Manifest, artifact: Artifact) {
    (artifact.inputs + artifact.outputs).firstOrNull { !isUsable(it.shape) }?.let {
        throw refused(Kind.BAD_SHAPE, "${artifact.name}'s ${it.name} has the shape ${it.shape}")
    }
    (artifact.options.keys - KNOWN_OPTIONS).firstOrNull()?.let {
        throw refused(Kind.BAD_VALUE, "${artifact.name} on ${artifact.backend} sets $it, which edgegen never does")
    }
    when (artifact.name) {
        TEXT_ENCODER -> requireIds(manifest, artifact)
        TRANSFORMER -> {
            requireShape(artifact, artifact.inputs, "latent", manifest.latentShape)
            requireShape(artifact, artifact.inputs, "timestep_features", listOf(1, manifest.timestepFeatures.size, 1, 1))
            requireShape(artifact, artifact.outputs, "velocity", manifest.latentShape)
        }
        DECODER -> {
            requireShape(artifact, artifact.inputs, "latent", manifest.latentShape)
            requireShape(artifact, artifact.outputs, "image", pictureShape(manifest))
        }
    }
}

private fun requireIds(manifest: Manifest, artifact: Artifact) {
    val wanted = manifest.tokenizers.associate { "${it.name}_ids" to listOf(1, it.length) }
    val found = artifact.inputs.associate { it.name to it.shape }
    if (wanted != found) throw refused(Kind.BAD_SHAPE, "the text encoder takes $found, the tokenizers give $wanted")
}

private fun requireShape(artifact: Artifact, specs: List<TensorSpec>, name: String, shape: List<Int>) {
    val found = specs.firstOrNull { it.name == name }?.shape
    if (found != shape) {
        throw refused(Kind.BAD_SHAPE, "${artifact.name} on ${artifact.backend} has $name of shape $found, not $shape")
    }
}

private fun refused(kind: Kind, message: String) = Failure(kind, "$MANIFEST: $message.", EXPORT_AGAIN)
