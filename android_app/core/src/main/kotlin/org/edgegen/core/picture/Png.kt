package org.edgegen.core.picture

import org.edgegen.core.Failure
import org.edgegen.core.Kind
import org.edgegen.core.draw.Picture
import java.io.ByteArrayInputStream
import java.io.ByteArrayOutputStream
import java.io.DataInputStream
import java.io.DataOutputStream
import java.io.EOFException
import java.util.zip.CRC32
import java.util.zip.DeflaterOutputStream

private val SIGNATURE = byteArrayOf(0x89.toByte(), 'P'.code.toByte(), 'N'.code.toByte(), 'G'.code.toByte(), 13, 10, 26, 10)
private const val TEXT_CHUNK = "iTXt" // text in UTF-8
private const val MAX_CHUNK = 64 shl 20

/** The keyword under which a picture carries its parameters, as JSON. */
const val PARAMETERS = "parameters"

/** A PNG file of a picture with texts by keyword (Latin letters), such as the parameters it was drawn with. */
fun encodePng(picture: Picture, texts: Map<String, String> = emptyMap()): ByteArray {
    val bytes = ByteArrayOutputStream()
    val out = DataOutputStream(bytes)
    out.write(SIGNATURE)
    writeChunk(out, "IHDR", header(picture))
    for ((keyword, text) in texts) writeChunk(out, TEXT_CHUNK, textBody(keyword, text))
    writeChunk(out, "IDAT", pixelsOf(picture))
    writeChunk(out, "IEND", ByteArray(0))
    return bytes.toByteArray()
}

/** The texts of a PNG file by keyword; a file that is no PNG is a BAD_INPUT [Failure]. */
fun readTexts(png: ByteArray): Map<String, String> {
    val texts = mutableMapOf<String, String>()
    try {
        DataInputStream(ByteArrayInputStream(png)).use { stream ->
            if (!ByteArray(SIGNATURE.size).also(stream::readFully).contentEquals(SIGNATURE)) throw EOFException()
            do {
                val (kind, body) = readChunk(stream)
                if (kind == TEXT_CHUNK) parseText(body)?.let { texts += it }
            } while (kind != "IEND")
        }
    } catch (error: EOFException) {
        throw Failure(Kind.BAD_INPUT, "The file is no whole PNG.", "Choose another file.", error)
    }
    return texts
}

private fun header(picture: Picture): ByteArray {
    val bytes = ByteArrayOutputStream()
    DataOutputStream(bytes).apply {
        writeInt(picture.width)
        writeInt(picture.height)
        write(byteArrayOf(8, 2, 0, 0, 0)) // 8 bits, RGB, deflate, the standard filters, not interlaced
    }
    return bytes.toByteArray()
}

/** Keyword, 0, not compressed (0, 0), no language (0), no translated keyword (0), text. */
private fun textBody(keyword: String, text: String): ByteArray {
    require(keyword.length in 1..79 && keyword.all { it in ' '..'~' }) { "\"$keyword\" is no keyword of a PNG" }
    return keyword.encodeToByteArray() + ByteArray(5) + text.encodeToByteArray()
}

private fun parseText(body: ByteArray): Pair<String, String>? {
    val end = body.indexOf(0)
    if (end < 1 || body.size < end + 5 || body[end + 1] != 0.toByte()) return null // compressed texts are not ours
    val language = (end + 3 until body.size).firstOrNull { body[it] == 0.toByte() } ?: return null
    val translated = (language + 1 until body.size).firstOrNull { body[it] == 0.toByte() } ?: return null
    return body.decodeToString(0, end) to body.decodeToString(translated + 1)
}

/** Rows, each behind a 0 that says it is not filtered, deflated. */
private fun pixelsOf(picture: Picture): ByteArray {
    val bytes = ByteArrayOutputStream()
    DeflaterOutputStream(bytes).use { out ->
        for (row in 0 until picture.height) {
            out.write(0)
            out.write(picture.rgb, 3 * row * picture.width, 3 * picture.width)
        }
    }
    return bytes.toByteArray()
}

private fun writeChunk(out: DataOutputStream, kind: String, body: ByteArray) {
    val content = kind.encodeToByteArray() + body
    out.writeInt(body.size)
    out.write(content)
    out.writeInt(CRC32().apply { update(content) }.value.toInt())
}

private fun readChunk(stream: DataInputStream): Pair<String, ByteArray> {
    val size = stream.readInt()
    if (size !in 0..MAX_CHUNK) throw EOFException()
    val kind = ByteArray(4).also(stream::readFully).decodeToString()
    val body = ByteArray(size).also(stream::readFully)
    stream.readInt() // its checksum
    return kind to body
}
