package org.edgegen.core.text

import java.text.Normalizer

private const val UNKNOWN = 1
private const val BEGIN = 2
private const val END = 3
private const val MAX_POINTS = 100 // of a word; a longer one is unknown

/**
 * WordPiece over lower-cased words without accents, as `word.json` of a bundle defines it.
 *
 * [vocabulary] gives the id of a piece; pieces inside a word begin with `##`.
 */
class WordTokenizer(private val vocabulary: Map<String, Int>, private val length: Int) : Tokenizer {
    override fun encode(prompt: String): Encoded {
        val pieces = IntList()
        pieces.add(BEGIN)
        for (word in words(normalized(prompt))) {
            if (pieces.size >= length) break // what follows is cut in any case
            pieces.addAll(piecesOf(word))
        }
        pieces.add(END)
        return fitted(pieces)
    }

    private fun fitted(pieces: IntList): Encoded {
        val ids = IntArray(length) { if (it < pieces.size) pieces[it] else 0 }
        val cut = pieces.size > length
        if (cut) ids[length - 1] = END
        return Encoded(ids, cut)
    }

    /** The longest pieces from left to right; one that is missing makes the whole word unknown. */
    private fun piecesOf(word: String): List<Int> {
        if (word.codePointCount(0, word.length) > MAX_POINTS) return listOf(UNKNOWN)
        val found = ArrayList<Int>()
        var start = 0
        while (start < word.length) {
            val end = endOfPiece(word, start) ?: return listOf(UNKNOWN)
            found.add(vocabulary.getValue(piece(word, start, end)))
            start = end
        }
        return found
    }

    private fun endOfPiece(word: String, start: Int): Int? =
        (word.length downTo start + 1).firstOrNull { piece(word, start, it) in vocabulary }

    private fun piece(word: String, start: Int, end: Int): String =
        (if (start > 0) "##" else "") + word.substring(start, end)
}

/** The prompt without invisible characters and accents, lower case, with spaces around CJK letters. */
internal fun normalized(prompt: String): String {
    val decomposed = Normalizer.normalize(cleaned(prompt), Normalizer.Form.NFD)
    return buildString(decomposed.length) {
        decomposed.codePoints().filter { !isCombining(it) }.forEach { appendCodePoint(Character.toLowerCase(it)) }
    }
}

private fun cleaned(prompt: String): String =
    buildString(prompt.length) {
        prompt.codePoints().filter { !isDropped(it) }.forEach {
            when {
                isSpace(it) -> append(' ')
                isCjk(it) -> append(' ').appendCodePoint(it).append(' ')
                else -> appendCodePoint(it)
            }
        }
    }

/** Runs between white space; every punctuation character is a word of its own. */
internal fun words(text: String): Sequence<String> =
    sequence {
        var start = 0
        var at = 0
        while (at < text.length) {
            val point = text.codePointAt(at)
            val next = at + Character.charCount(point)
            if (isSpace(point) || isPunctuation(point)) {
                if (at > start) yield(text.substring(start, at))
                if (!isSpace(point)) yield(text.substring(at, next))
                start = next
            }
            at = next
        }
        if (at > start) yield(text.substring(start, at))
    }

/** Ints that grow without boxing. */
private class IntList {
    private var values = IntArray(64)
    var size = 0
        private set

    operator fun get(index: Int) = values[index]

    fun add(value: Int) {
        if (size == values.size) values = values.copyOf(2 * size)
        values[size++] = value
    }

    fun addAll(more: List<Int>) = more.forEach(::add)
}
