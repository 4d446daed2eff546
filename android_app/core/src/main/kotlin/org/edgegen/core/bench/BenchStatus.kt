package org.edgegen.core.bench

import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.contentOrNull
import kotlinx.serialization.json.intOrNull
import kotlinx.serialization.json.put
import java.io.File
import java.io.IOException

/** How far a bench in another process is, for the screen and for `edgegen bench --adb`: "running", "done" or "failed". */
data class BenchStatus(
    val state: String,
    val part: String = "",
    val done: Int = 0,
    val of: Int = 0,
    val message: String = "",
    val kind: String = "",
) {
    val isOver: Boolean get() = state != RUNNING

    /** Writes the status beside its name and renames, so that a reader sees all of it or what was before. */
    fun write(file: File) {
        val partial = File(file.path + ".partial")
        partial.writeText(
            buildJsonObject {
                put("state", state)
                put("part", part)
                put("done", done)
                put("of", of)
                put("message", message)
                put("kind", kind)
            }.toString(),
        )
        partial.renameTo(file)
    }

    companion object {
        const val FILE = "bench-status.json"
        const val RUNNING = "running"
        const val DONE = "done"
        const val FAILED = "failed"

        /** Null where there is none, or none that can be read. */
        fun read(file: File): BenchStatus? =
            try {
                (Json.parseToJsonElement(file.readText()) as? JsonObject)?.let(::parse)
            } catch (_: IOException) {
                null
            } catch (_: SerializationException) {
                null
            }

        private fun parse(values: JsonObject): BenchStatus? {
            fun primitive(name: String) = values[name] as? JsonPrimitive
            fun text(name: String) = primitive(name)?.contentOrNull.orEmpty()
            val state = text("state").ifEmpty { return null }
            return BenchStatus(state, text("part"), primitive("done")?.intOrNull ?: 0, primitive("of")?.intOrNull ?: 0,
                text("message"), text("kind"))
        }
    }
}
