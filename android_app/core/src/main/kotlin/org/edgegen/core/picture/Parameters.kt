package org.edgegen.core.picture

import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.doubleOrNull
import kotlinx.serialization.json.intOrNull
import kotlinx.serialization.json.put

/** How a picture was made: enough to draw it again. */
data class Parameters(
    val prompt: String,
    val seed: Long,
    val steps: Int,
    val guidance: Double,
    val model: String,
    val tier: String,
    val bits: Double,
    val backend: String,
    val seconds: Double,
    val truncated: Boolean,
) {
    /** JSON as it is stored in the PNG; the seed is text, since it may not fit a double. */
    fun toJson(): String =
        buildJsonObject {
            put("prompt", prompt)
            put("seed", seed.toString())
            put("steps", steps)
            put("guidance", guidance)
            put("model", model)
            put("tier", tier)
            put("bits", bits)
            put("backend", backend)
            put("seconds", seconds)
            put("truncated", truncated)
        }.toString()

    companion object {
        /** Null where the text is not what [toJson] writes. */
        fun parse(text: String): Parameters? =
            try {
                (Json.parseToJsonElement(text) as? JsonObject)?.let(::read)
            } catch (_: SerializationException) {
                null
            }

        private fun read(values: JsonObject): Parameters? {
            fun primitive(name: String) = values[name] as? JsonPrimitive
            fun text(name: String) = primitive(name)?.content
            fun number(name: String) = primitive(name)?.doubleOrNull
            return Parameters(
                prompt = text("prompt") ?: return null,
                seed = text("seed")?.toLongOrNull() ?: return null,
                steps = primitive("steps")?.intOrNull ?: return null,
                guidance = number("guidance") ?: return null,
                model = text("model") ?: return null,
                tier = text("tier") ?: return null,
                bits = number("bits") ?: return null,
                backend = text("backend") ?: return null,
                seconds = number("seconds") ?: return null,
                truncated = text("truncated") == "true",
            )
        }
    }
}
