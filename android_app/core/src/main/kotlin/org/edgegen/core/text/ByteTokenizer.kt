package org.edgegen.core.text

/** One id that begins, then the prompt's UTF-8 bytes plus an offset, ASCII capitals lowered. */
class ByteTokenizer(private val length: Int, private val offset: Int = 2, private val begin: Int = 1) : Tokenizer {
    override fun encode(prompt: String): Encoded {
        val bytes = prompt.encodeToByteArray()
        val ids = IntArray(length)
        ids[0] = begin
        for (i in 0 until minOf(bytes.size, length - 1)) ids[i + 1] = lowered(bytes[i].toInt() and 0xff) + offset
        return Encoded(ids, cut = bytes.size + 1 > length)
    }

    private fun lowered(byte: Int) = if (byte in 'A'.code..'Z'.code) byte + ('a' - 'A') else byte
}
