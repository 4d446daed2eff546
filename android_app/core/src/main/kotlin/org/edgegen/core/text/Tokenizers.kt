package org.edgegen.core.text

import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.edgegen.core.Failure
import org.edgegen.core.Kind
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.bundle.EXPORT_AGAIN
import org.edgegen.core.bundle.TokenizerFile
import org.edgegen.core.bundle.parseStrictly

/** The tokenizers of a bundle by the names of the encoders they feed. */
class Tokenizers(private val byEncoder: Map<String, Tokenizer>) {
    fun encode(prompt: String): TokenIds {
        val encoded = byEncoder.mapValues { (_, tokenizer) -> tokenizer.encode(prompt) }
        return TokenIds(encoded.mapValues { it.value.ids }, encoded.values.any { it.cut })
    }

    companion object {
        /** Reads `word.json` and `byte.json`, either of which a bundle may lack. */
        fun of(bundle: Bundle): Tokenizers =
            Tokenizers(bundle.manifest.tokenizers.associate { it.name to read(it, bundle.file(it).readText()) })

        private fun read(file: TokenizerFile, text: String): Tokenizer =
            try {
                when (file.name) {
                    "word" -> readWord(text, file.length)
                    "byte" -> readByte(text)
                    else -> throw IllegalArgumentException("no tokenizer is named ${file.name}")
                }
            } catch (error: IllegalArgumentException) {
                throw Failure(Kind.BAD_FIELD, "${file.path} cannot be read: ${error.message}.", EXPORT_AGAIN, error)
            }
    }
}

/** The tokenizer of a `word.json`, which is a file of the library tokenizers. */
fun readWord(text: String, length: Int): Tokenizer {
    val model = requireNotNull(parseStrictly(text).jsonObject["model"]) { "it has no model" }.jsonObject
    require(model["type"]?.jsonPrimitive?.content == "WordPiece") { "its model is no WordPiece" }
    val vocabulary = requireNotNull(model["vocab"]) { "it has no vocab" }.jsonObject
    return WordTokenizer(vocabulary.mapValues { it.value.jsonPrimitive.int }, length)
}

/** The tokenizer of a `byte.json`: {"length", "offset", "begin"}. */
fun readByte(text: String): Tokenizer {
    val values = parseStrictly(text).jsonObject
    fun field(name: String) = requireNotNull(values[name]) { "it has no $name" }.jsonPrimitive.int
    return ByteTokenizer(field("length"), field("offset"), field("begin"))
}
