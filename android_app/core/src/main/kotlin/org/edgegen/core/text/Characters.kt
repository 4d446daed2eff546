package org.edgegen.core.text

private val ASCII_PUNCTUATION = listOf('!'.code..'/'.code, ':'.code..'@'.code, '['.code..'`'.code, '{'.code..'~'.code)

private val PUNCTUATION =
    setOf(
        Character.CONNECTOR_PUNCTUATION,
        Character.DASH_PUNCTUATION,
        Character.START_PUNCTUATION,
        Character.END_PUNCTUATION,
        Character.INITIAL_QUOTE_PUNCTUATION,
        Character.FINAL_QUOTE_PUNCTUATION,
        Character.OTHER_PUNCTUATION,
    )

private val INVISIBLE = setOf(Character.CONTROL, Character.FORMAT, Character.PRIVATE_USE)

private val SEPARATORS = setOf(Character.SPACE_SEPARATOR, Character.LINE_SEPARATOR, Character.PARAGRAPH_SEPARATOR)

private val CJK =
    listOf(
        0x4E00..0x9FFF,
        0x3400..0x4DBF,
        0x20000..0x2A6DF,
        0x2A700..0x2B73F,
        0x2B740..0x2B81F,
        0x2B920..0x2CEAF,
        0xF900..0xFAFF,
        0x2F800..0x2FA1F,
    )

private fun isTabOrLineEnd(point: Int) = point == '\t'.code || point == '\n'.code || point == '\r'.code

/** Whether a code point is white space that is not dropped as a control character. */
internal fun isSpace(point: Int): Boolean = isTabOrLineEnd(point) || category(point) in SEPARATORS

/** U+0000, U+FFFD, and control, format and private-use characters other than tab and line ends. */
internal fun isDropped(point: Int): Boolean =
    point == 0 || point == 0xFFFD || (!isTabOrLineEnd(point) && category(point) in INVISIBLE)

internal fun isPunctuation(point: Int): Boolean =
    ASCII_PUNCTUATION.any { point in it } || category(point) in PUNCTUATION

internal fun isCjk(point: Int): Boolean = CJK.any { point in it }

internal fun isCombining(point: Int): Boolean = category(point) == Character.NON_SPACING_MARK

private fun category(point: Int): Byte = Character.getType(point).toByte()
