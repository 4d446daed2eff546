package org.edgegen.core.bundle

import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import org.edgegen.core.Failure
import org.edgegen.core.Kind
import java.io.File
import java.io.IOException

private const val FOREIGN_VERSION = "2" // of a manifest of other projects' networks
private const val INDEX = "pipeline/model_index.json" // of diffusers
private const val INDEX_LIMIT = 1L shl 20 // bytes; a pipeline's has some hundred
private const val LONGEST = 48 // of "StableDiffusion3ControlNetInpaintingPipeline" there are 44
private val PLAIN = (('A'..'Z') + ('a'..'z') + ('0'..'9') + " _-+.".toList()).map { it.code }.toSet()
private val NEEDED = listOf("sampler", "prediction", "guidance")

/** What a bundle of another project's networks needs, by the names that it gives itself. Anyone may have written them. */
private class ForeignBundle(
    val isPipeline: Boolean,
    val model: String, // class of the transformer, or of the first network where there is none
    val needs: List<String>, // such as "sampler SCM", of a family that edgegen knows
    val pipeline: String?, // class, which the manifest tells, or the index where it is older
    val scheduler: String?,
) {
    val described: String
        get() {
            val noted = if (needs.isEmpty()) "" else " (${needs.joinToString()})"
            if (!isPipeline) return "a lone network, $model$noted"
            val what = pipeline?.let { "$it with $model" } ?: model
            return "a pipeline, $what${scheduler?.let { ", that draws with $it" }.orEmpty()}$noted"
        }
}

/**
 * What an app says of a manifest of other projects' networks (`format_version` 2), none of which it draws with.
 *
 * Null for another version, and where a field is missing or of a wrong type. [index] is asked for a pipeline's
 * `model_index.json`.
 */
internal fun foreignRefusal(manifest: JsonObject, index: () -> JsonObject?): Failure? {
    if (!isVersion(manifest["format_version"], FOREIGN_VERSION)) return null
    val found = read(manifest["pipeline"] as? JsonObject ?: return null, index) ?: return null
    val remedy =
        if (found.isPipeline) "On a computer, edgegen generate draws with it."
        else "On a computer, edgegen verify runs it."
    return Failure(Kind.FOREIGN_NETWORKS, "$MANIFEST: this bundle is ${found.described}; this app draws with edgegen's own " +
        "networks and flow-matching Euler.", remedy)
}

/** Whether a version is this number, and no text of it. */
internal fun isVersion(version: JsonElement?, number: String): Boolean =
    version is JsonPrimitive && !version.isString && version.content == number

private fun read(told: JsonObject, index: () -> JsonObject?): ForeignBundle? {
    val kind = textOf(told["kind"])?.takeIf { it == "network" || it == "pipeline" } ?: return null
    val networks = told["networks"] as? JsonObject ?: return null
    val network = (networks["transformer"] ?: networks.minByOrNull { it.key }?.value) as? JsonObject ?: return null
    val needs = NEEDED.filter { it in network }.map { key -> "$key ${nameOf(network[key]) ?: return null}" }
    val beside = if (kind == "pipeline" && ("class" !in told || "scheduler" !in told)) index() else null
    val pipeline = nameOf(told["class"] ?: beside?.get("_class_name"))
    val scheduler = nameOf(if ("scheduler" in told) (told["scheduler"] as? JsonObject)?.get("class") else schedulerOf(beside))
    if (("class" in told && pipeline == null) || ("scheduler" in told && scheduler == null)) return null
    return ForeignBundle(kind == "pipeline", nameOf(network["class"]) ?: return null, needs, pipeline, scheduler)
}

/** The class in `["diffusers", "SCMScheduler"]`. */
private fun schedulerOf(index: JsonObject?): JsonElement? = (index?.get("scheduler") as? JsonArray)?.takeIf { it.size == 2 }?.get(1)

private fun textOf(value: JsonElement?): String? = (value as? JsonPrimitive)?.takeIf { it.isString }?.content

/** A text as one may show it: short, and of letters that cannot hide others; null for what is no text or empty. */
private fun nameOf(value: JsonElement?): String? {
    val text = textOf(value)?.ifEmpty { null } ?: return null
    val points = text.codePoints().limit(LONGEST + 1L).toArray()
    val shown = points.joinToString("") { if (it in PLAIN) it.toChar().toString() else "?" }
    return if (points.size > LONGEST) shown.take(LONGEST - 1) + "…" else shown
}

/** The `model_index.json` inside a bundle; null where it is not there, lies outside or cannot be read. */
internal fun readIndex(root: File): JsonObject? =
    try {
        requireInside(root, INDEX)
        File(root, INDEX).takeIf { it.isFile && it.length() <= INDEX_LIMIT }?.let { parseStrictly(it.readText()) as? JsonObject }
    } catch (_: Failure) {
        null
    } catch (_: IOException) {
        null
    } catch (_: IllegalArgumentException) {
        null
    }
