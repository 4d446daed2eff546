package org.edgegen.core.bench

import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import java.io.File
import java.io.RandomAccessFile

/** A file of rows, one JSON object a line, that is only ever appended to. */
class Records(private val file: File) {
    /** Appends a row at once and synced, after closing a line that was cut off. */
    fun append(row: JsonObject) {
        file.absoluteFile.parentFile.mkdirs()
        RandomAccessFile(file, "rw").use { out ->
            val isTorn = out.length() > 0 && out.run { seek(length() - 1).let { read() } } != '\n'.code
            out.seek(out.length())
            out.write(((if (isTorn) "\n" else "") + row + "\n").encodeToByteArray())
            out.fd.sync()
        }
    }

    /** The rows in order; a line that was cut off is passed over. */
    fun read(): List<JsonObject> {
        if (!file.exists()) return emptyList()
        return file.readLines().mapNotNull { line ->
            try {
                Json.parseToJsonElement(line) as? JsonObject
            } catch (_: SerializationException) {
                null
            }
        }
    }
}
