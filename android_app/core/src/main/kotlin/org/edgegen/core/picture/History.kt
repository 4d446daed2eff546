package org.edgegen.core.picture

import org.edgegen.core.Failure
import org.edgegen.core.draw.Picture
import java.io.File
import java.util.UUID

/** A picture on disk and how it was made. */
data class Entry(val file: File, val parameters: Parameters)

/** The pictures that were drawn, newest first, each a PNG that carries its parameters. */
class History(private val folder: File) {
    init {
        folder.mkdirs()
    }

    /** Removes what an interrupted [add] left; call it at the start. */
    fun cleanUp() = folder.listFiles { file: File -> file.name.endsWith(PARTIAL) }.orEmpty().forEach { it.delete() }

    fun list(): List<Entry> = files().mapNotNull(::read)

    /** Writes a picture beside its name and renames it, then removes the oldest beyond [limit]. */
    fun add(picture: Picture, parameters: Parameters, limit: Int): Entry {
        val number = (files().firstOrNull()?.name?.substringBefore('-')?.toLongOrNull() ?: 0) + 1
        val file = File(folder, "%08d-${UUID.randomUUID().toString().take(8)}.png".format(java.util.Locale.ROOT, number))
        val partial = File(folder, file.name + PARTIAL)
        partial.writeBytes(encodePng(picture, mapOf(PARAMETERS to parameters.toJson())))
        check(partial.renameTo(file)) { "cannot rename ${partial.name}" }
        files().drop(limit).forEach { it.delete() }
        return Entry(file, parameters)
    }

    fun clear() = files().forEach { it.delete() }

    private fun files(): List<File> =
        folder.listFiles { file: File -> file.extension == "png" }.orEmpty().sortedByDescending { it.name }

    private fun read(file: File): Entry? {
        val texts = try {
            readTexts(file.readBytes())
        } catch (_: Failure) {
            return null
        }
        return texts[PARAMETERS]?.let(Parameters::parse)?.let { Entry(file, it) }
    }

    private companion object {
        const val PARTIAL = ".partial"
    }
}
