package org.edgegen.core.bundle

import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive

private val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")

private const val DEPTH = 64 // of objects and lists; what edgegen writes has 8

/** Parses JSON; NaN, infinities and bare words, which the library lets through, are no JSON. */
internal fun parseStrictly(text: String): JsonElement {
    requireDepth(text)
    val element =
        try {
            Json.parseToJsonElement(text)
        } catch (error: SerializationException) {
            throw IllegalArgumentException(error.message?.lineSequence()?.first() ?: "no JSON", error)
        }
    requireLiterals(element)
    return element
}

/** Refuses nesting that readers cannot follow, before any of them sees it. */
private fun requireDepth(text: String) {
    var depth = 0
    var isQuoted = false
    var isEscaped = false
    for (letter in text) {
        when {
            isEscaped -> isEscaped = false
            letter == '\\' -> isEscaped = isQuoted
            letter == '"' -> isQuoted = !isQuoted
            isQuoted -> continue
            letter == '[' || letter == '{' -> require(++depth <= DEPTH) { "objects and lists are nested deeper than $DEPTH" }
            letter == ']' || letter == '}' -> depth--
        }
    }
}

private fun requireLiterals(element: JsonElement) {
    when (element) {
        is JsonObject -> element.values.forEach(::requireLiterals)
        is JsonArray -> element.forEach(::requireLiterals)
        is JsonNull -> Unit
        is JsonPrimitive -> require(element.isString || isLiteral(element.content)) { "${element.content} is no JSON" }
    }
}

private fun isLiteral(text: String): Boolean =
    text == "true" || text == "false" || (NUMBER.matches(text) && text.toDouble().isFinite())
