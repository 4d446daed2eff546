package org.edgegen.core.bundle

import java.io.File
import java.io.InputStream
import java.security.MessageDigest

private const val CHUNK = 1 shl 16

/** sha256, in hexadecimal, and bytes of a file or folder. */
data class Digest(val sha256: String, val bytes: Long)

/** The digest of a file; of a folder, sha256 over the lines `<sha256>  <relative path>` sorted by path. */
fun digestOf(path: File): Digest {
    if (path.isFile) return path.inputStream().use(::digestOf)
    val files = path.walkTopDown().filter { it.isFile }
    return folderDigest(files.associate { it.relativeTo(path).invariantSeparatorsPath to digestOf(it) })
}

/** The digest of a folder whose files have these digests by relative path. */
fun folderDigest(files: Map<String, Digest>): Digest {
    val lines = files.toSortedMap(BY_CODE_POINT).map { (path, digest) -> "${digest.sha256}  $path\n" }
    val sha256 = hex(MessageDigest.getInstance("SHA-256").digest(lines.joinToString("").encodeToByteArray()))
    return Digest(sha256, files.values.sumOf { it.bytes })
}

/** The digest of what is left of a stream. */
fun digestOf(stream: InputStream): Digest {
    val sha256 = MessageDigest.getInstance("SHA-256")
    val chunk = ByteArray(CHUNK)
    var total = 0L
    while (true) {
        val count = stream.read(chunk)
        if (count < 0) return Digest(hex(sha256.digest()), total)
        sha256.update(chunk, 0, count)
        total += count
    }
}

/** Order of code points, which is that of UTF-8 bytes; the order of UTF-16 units puts emoji before full-width letters. */
internal val BY_CODE_POINT: Comparator<String> = Comparator { a, b ->
    val (left, right) = a.encodeToByteArray() to b.encodeToByteArray()
    val differing = (0 until minOf(left.size, right.size)).firstOrNull { left[it] != right[it] }
    if (differing == null) left.size - right.size else left[differing].toUByte().compareTo(right[differing].toUByte())
}

private fun hex(bytes: ByteArray) = bytes.joinToString("") { "%02x".format(it) }
