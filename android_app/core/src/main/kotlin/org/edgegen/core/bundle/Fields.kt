package org.edgegen.core.bundle

import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import org.edgegen.core.Failure
import org.edgegen.core.Kind

/** The fields of a JSON object; one that is missing or of a wrong type is a BAD_FIELD that names it. */
internal class Fields(private val values: JsonObject, private val where: String) {
    fun text(name: String): String = textOf(value(name), at(name))

    fun int(name: String): Int = intOf(value(name), at(name))

    fun long(name: String): Long = longOf(value(name), at(name))

    fun number(name: String): Double = numberOf(value(name), at(name))

    fun ints(name: String): List<Int> = list(name, ::intOf)

    fun numbers(name: String): List<Double> = list(name, ::numberOf)

    fun texts(name: String): List<String> = list(name, ::textOf)

    fun fields(name: String): Fields = fieldsOf(value(name), at(name))

    fun objects(name: String): List<Fields> = list(name, ::fieldsOf)

    /** A list that may be missing. */
    fun objectsOrNone(name: String): List<Fields> = if (name in values) objects(name) else emptyList()

    /** An object of texts or numbers by name; empty where the field is missing and may be. */
    fun textMap(name: String): Map<String, String> =
        values[name]?.let { fieldsOf(it, at(name)).all(::textOf) } ?: emptyMap()

    fun numberMap(name: String): Map<String, Double> = fields(name).all(::numberOf)

    private fun <T> all(read: (JsonElement, String) -> T): Map<String, T> =
        values.mapValues { (name, value) -> read(value, at(name)) }

    private fun <T> list(name: String, read: (JsonElement, String) -> T): List<T> {
        val array = value(name) as? JsonArray ?: throw wrong(at(name), "a list")
        return array.mapIndexed { index, item -> read(item, "${at(name)}[$index]") }
    }

    private fun value(name: String): JsonElement =
        values[name] ?: throw Failure(Kind.BAD_FIELD, "manifest.json: ${at(name)} is missing.", EXPORT_AGAIN)

    private fun at(name: String) = if (where.isEmpty()) name else "$where.$name"
}

internal const val EXPORT_AGAIN = "Export the bundle again."

private fun wrong(where: String, wanted: String) =
    Failure(Kind.BAD_FIELD, "manifest.json: $where must be $wanted.", EXPORT_AGAIN)

private fun fieldsOf(value: JsonElement, where: String): Fields =
    Fields(value as? JsonObject ?: throw wrong(where, "an object"), where)

private fun textOf(value: JsonElement, where: String): String =
    (value as? JsonPrimitive)?.takeIf { it.isString }?.content ?: throw wrong(where, "a text")

private fun bareOf(value: JsonElement): String? = (value as? JsonPrimitive)?.takeIf { !it.isString }?.content

private fun numberOf(value: JsonElement, where: String): Double =
    bareOf(value)?.toDoubleOrNull() ?: throw wrong(where, "a number")

private fun longOf(value: JsonElement, where: String): Long =
    bareOf(value)?.toLongOrNull() ?: throw wrong(where, "a whole number")

private fun intOf(value: JsonElement, where: String): Int =
    bareOf(value)?.toIntOrNull() ?: throw wrong(where, "a whole number below 2^31")
