package org.edgegen.core.bundle

import org.edgegen.core.Failure
import org.edgegen.core.Kind
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream
import java.nio.channels.FileChannel
import java.nio.file.Files
import java.nio.file.StandardOpenOption
import java.util.zip.ZipEntry
import java.util.zip.ZipException
import java.util.zip.ZipInputStream

private const val CHUNK = 1 shl 16
private const val MAX_ENTRIES = 10_000

/** Copies what the manifest lists, then the manifest itself. */
internal fun copyBundle(bundle: Bundle, target: File, copied: Copied) {
    var total = 0L
    for (part in bundle.manifest.files) {
        for (file in bundle.file(part).walkTopDown().filter { it.isFile }) {
            val copy = File(target, file.relativeTo(bundle.root).path)
            file.inputStream().use { stream -> total += write(stream, copy) { copied(total + it) } }
        }
    }
    File(bundle.root, MANIFEST).copyTo(File(target, MANIFEST))
}

/** Copies the files that a manifest lists, then the manifest itself. */
internal fun copyFiles(manifest: Manifest, text: String, target: File, copied: Copied, open: (String) -> InputStream) {
    var total = 0L
    for (part in manifest.files) {
        requireInside(target, part.path)
        open(part.path).use { stream -> total += write(stream, File(target, part.path)) { copied(total + it) } }
    }
    File(target, MANIFEST).writeText(text)
}

/**
 * Unpacks a zip file into [target]; [requireSpace] is told what is about to be written.
 *
 * An entry whose path leaves the folder, too many entries or a broken zip are a BAD_ZIP [Failure].
 */
internal fun unzip(source: InputStream, target: File, requireSpace: (Long) -> Unit, copied: Copied) {
    var total = 0L
    var entries = 0
    val zip = ZipInputStream(source.buffered())
    try {
        generateSequence { zip.nextEntry }.forEach { entry ->
            requireEntry(entry, ++entries)
            val file = File(target, entry.name)
            if (entry.isDirectory) {
                file.mkdirs()
            } else {
                val before = total
                total += write(zip, file) { written ->
                    requireSpace(CHUNK.toLong()) // what was written is no longer among the free bytes
                    copied(before + written)
                }
            }
        }
    } catch (error: ZipException) {
        throw badZip("The zip file is broken: ${error.message}", error)
    } catch (error: java.io.EOFException) {
        throw badZip("The zip file ends too early", error)
    } catch (error: IllegalArgumentException) {
        throw badZip("The zip file has a name that cannot be read", error)
    }
    if (entries == 0) throw badZip("The file is no zip file, or an empty one")
}

private fun requireEntry(entry: ZipEntry, count: Int) {
    if (!staysInside(entry.name.trimEnd('/'))) throw badZip("The zip file's \"${entry.name}\" points outside the bundle")
    if (count > MAX_ENTRIES) throw badZip("The zip file has more than $MAX_ENTRIES entries")
}

private fun badZip(message: String, cause: Throwable? = null) =
    Failure(Kind.BAD_ZIP, "$message.", "Do not use this file.", cause)

/** Writes a new file and syncs it; returns its bytes. */
private fun write(stream: InputStream, file: File, written: Copied): Long {
    file.parentFile.mkdirs()
    if (!file.createNewFile()) throw IOException("${file.name} is there twice")
    FileOutputStream(file).use { out ->
        val chunk = ByteArray(CHUNK)
        var total = 0L
        while (true) {
            val count = stream.read(chunk)
            if (count < 0) break
            out.write(chunk, 0, count)
            total += count
            written(total)
        }
        out.fd.sync()
        return total
    }
}

/** Waits until the entries of a folder and of those below are on the disk, where the system lets us. */
internal fun syncAll(folder: File) {
    folder.walkBottomUp().filter { it.isDirectory }.forEach { directory ->
        try {
            FileChannel.open(directory.toPath(), StandardOpenOption.READ).use { it.force(true) }
        } catch (_: IOException) {
            return // some systems open no folders
        }
    }
}

/** Removes a folder, the file that makes it look finished first; links are removed, not followed. */
internal fun removeFolder(folder: File) {
    File(folder, MANIFEST).delete()
    if (Files.isSymbolicLink(folder.toPath())) {
        folder.delete()
        return
    }
    folder.listFiles().orEmpty().forEach { if (it.isDirectory) removeFolder(it) else it.delete() }
    folder.delete()
}
