package org.edgegen.core.bundle

import kotlinx.serialization.json.JsonObject
import org.edgegen.core.Failure
import org.edgegen.core.Kind

/**
 * Parses a manifest and checks that its values fit each other; unknown fields are let be.
 *
 * Throws [Failure]: UNREADABLE_MANIFEST, UNKNOWN_VERSION, FOREIGN_NETWORKS, BAD_FIELD, BAD_VALUE, BAD_SIGMAS, BAD_SHAPE,
 * INCOMPLETE. [index] is what a bundle of another project's pipeline has beside it, asked for its names alone.
 */
fun parseManifest(text: String, index: () -> JsonObject? = { null }): Manifest {
    val values =
        try {
            parseStrictly(text) as? JsonObject ?: throw IllegalArgumentException("it is no object")
        } catch (error: IllegalArgumentException) {
            throw Failure(Kind.UNREADABLE_MANIFEST, "$MANIFEST cannot be read: ${error.message}.", EXPORT_AGAIN, error)
        }
    requireVersion(values, index)
    return readManifest(Fields(values, "")).also { it.each.forEach(::requireFit) }
}

private fun requireVersion(values: JsonObject, index: () -> JsonObject?) {
    val version = values["format_version"]
    if (isVersion(version, "$FORMAT_VERSION")) return
    foreignRefusal(values, index)?.let { throw it }
    val found = version?.toString()?.take(LONGEST) ?: "missing"
    throw Failure(Kind.UNKNOWN_VERSION, "$MANIFEST: format_version is $found, this app reads $FORMAT_VERSION.",
        "Update the app, or export the bundle with an edgegen of its age.")
}

private const val LONGEST = 60 // characters of a value that an error names

private fun readManifest(fields: Fields): Manifest {
    val checkpoint = fields.fields("checkpoint")
    return Manifest(
        model = fields.text("model"),
        tier = fields.text("tier"),
        width = fields.number("width"),
        resolution = fields.ints("resolution").also { requireField(it.size == 2, "resolution must have 2 entries") },
        steps = fields.int("steps"),
        sigmas = fields.numbers("sigmas"),
        shift = fields.number("shift"),
        guidance = fields.number("guidance"),
        bits = fields.number("bits"),
        latentShape = fields.ints("latent_shape"),
        timestepFeatures = readTimestep(fields.fields("timestep_features")),
        tokenizers = fields.objects("tokenizer").map(::readTokenizer),
        prompts = fields.texts("prompts"),
        floorsDb = fields.numberMap("floors_db"),
        checkpointName = checkpoint.text("name"),
        checkpointKind = checkpoint.text("kind"),
        toolVersions = fields.textMap("tool_versions"),
        components = fields.objects("components").map(::readArtifact),
        tiers = fields.objectsOrNone("tiers").map(::readTier),
    ).also { manifest ->
        val names = manifest.each.map { it.tier }
        requireField(names.toSet().size == names.size, "tiers has one of ${names.joinToString()} twice")
    }
}

private fun readTier(fields: Fields) =
    TierPart(fields.text("tier"), fields.number("width"), fields.numberMap("floors_db"),
        fields.objects("components").map(::readArtifact))

private fun readTimestep(fields: Fields) =
    TimestepDefinition(fields.int("size"), fields.number("scale"), fields.number("max_period"), fields.text("order"))

private fun readTokenizer(fields: Fields) =
    TokenizerFile(fields.text("name"), fields.text("path"), fields.text("sha256"), fields.long("bytes"),
        fields.int("length"))

private fun readArtifact(fields: Fields): Artifact {
    val backend = fields.text("backend")
    requireField(backend in BACKENDS, "back end $backend is not one of ${BACKENDS.joinToString()}")
    return Artifact(
        name = fields.text("name"),
        backend = backend,
        path = fields.text("path"),
        sha256 = fields.text("sha256"),
        bytes = fields.long("bytes"),
        residentBytes = fields.long("resident_bytes"),
        form = fields.text("form"),
        inputs = fields.objects("inputs").map(::readSpec),
        outputs = fields.objects("outputs").map(::readSpec),
        options = fields.textMap("options"),
    )
}

private fun readSpec(fields: Fields) = TensorSpec(fields.text("name"), fields.ints("shape"), fields.text("dtype"))

private fun requireField(holds: Boolean, message: String) {
    if (!holds) throw Failure(Kind.BAD_FIELD, "$MANIFEST: $message.", EXPORT_AGAIN)
}
