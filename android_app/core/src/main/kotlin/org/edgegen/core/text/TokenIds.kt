package org.edgegen.core.text

/** Ids padded with 0 to the encoders' lengths by encoder ("word", "byte"), and whether any encoder saw only a part. */
class TokenIds(val byEncoder: Map<String, IntArray>, val truncated: Boolean)

/** A tokenizer's ids at its fixed length. */
class Encoded(val ids: IntArray, val cut: Boolean)

/** Turns a prompt into ids. */
fun interface Tokenizer {
    fun encode(prompt: String): Encoded
}
