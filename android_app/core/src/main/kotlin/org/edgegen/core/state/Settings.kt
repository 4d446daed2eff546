package org.edgegen.core.state

import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.booleanOrNull
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.contentOrNull
import kotlinx.serialization.json.intOrNull
import kotlinx.serialization.json.put
import java.io.File

/** What the user chose and the app remembers; [bundle] null: the app chooses. */
data class Settings(
    val previews: Boolean = true,
    val keepHistory: Boolean = true,
    val historyLimit: Int = 50,
    val bundle: String? = null,
) {
    init {
        require(historyLimit in 1..MAX_HISTORY) { "history limit $historyLimit is outside 1 to $MAX_HISTORY" }
    }

    companion object {
        const val MAX_HISTORY = 500
    }
}

/** Settings in a file; what cannot be read is as if it were not there. */
class SettingsFile(private val file: File) {
    fun read(): Settings =
        try {
            (Json.parseToJsonElement(file.readText()) as? JsonObject)?.let(::parse)
        } catch (_: SerializationException) {
            null
        } catch (_: java.io.IOException) {
            null
        } ?: Settings()

    /** Writes beside the name and renames. */
    fun write(settings: Settings) {
        val partial = File(file.path + ".partial")
        partial.writeText(
            buildJsonObject {
                put("previews", settings.previews)
                put("keep_history", settings.keepHistory)
                put("history_limit", settings.historyLimit)
                put("bundle", settings.bundle)
            }.toString(),
        )
        partial.renameTo(file)
    }

    private fun parse(values: JsonObject): Settings {
        fun primitive(name: String) = values[name] as? JsonPrimitive
        val usual = Settings()
        return Settings(
            previews = primitive("previews")?.booleanOrNull ?: usual.previews,
            keepHistory = primitive("keep_history")?.booleanOrNull ?: usual.keepHistory,
            historyLimit = primitive("history_limit")?.intOrNull?.coerceIn(1, Settings.MAX_HISTORY) ?: usual.historyLimit,
            bundle = primitive("bundle")?.contentOrNull,
        )
    }
}
