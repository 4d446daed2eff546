package org.edgegen.core

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest

/** The folder android_app/ of the checkout that is tested. */
val APP = File(requireNotNull(System.getProperty("edgegen.app")) { "run the tests with ci/pom.xml" }).canonicalFile

/** A file of tests/vectors/. */
fun vectors(name: String): JsonObject = Json.parseToJsonElement(File(APP.parentFile, "tests/vectors/$name").readText()).jsonObject

/** The cases of a file of vectors; there is at least one. */
fun cases(name: String): List<JsonObject> =
    vectors(name).getValue("cases").jsonArray.map { it.jsonObject }.also { check(it.isNotEmpty()) }

fun JsonObject.text(name: String): String = getValue(name).jsonPrimitive.content

fun JsonObject.int(name: String): Int = getValue(name).jsonPrimitive.int

fun JsonObject.number(name: String): Double = text(name).toDouble()

fun JsonObject.ints(name: String): List<Int> = getValue(name).jsonArray.map { it.jsonPrimitive.int }

fun JsonObject.numbers(name: String): List<Double> = getValue(name).jsonArray.map { it.jsonPrimitive.content.toDouble() }

/** float32 values from their bits. */
fun JsonObject.floats(name: String): FloatArray = floatsOf(getValue(name))

fun floatsOf(array: JsonElement): FloatArray =
    (array as JsonArray).map { Float.fromBits((it as JsonPrimitive).content.toLong(16).toInt()) }.toFloatArray()

/** A prompt or the rule {"repeat", "times"} of one. */
fun spelled(prompt: JsonElement): String =
    (prompt as? JsonPrimitive)?.content ?: prompt.jsonObject.let { it.text("repeat").repeat(it.int("times")) }

/** sha256 of values' bytes, little end first. */
fun sha256(values: FloatArray): String {
    val bytes = ByteBuffer.allocate(4 * values.size).order(ByteOrder.LITTLE_ENDIAN)
    values.forEach(bytes::putFloat)
    return hex(bytes.array())
}

fun sha256(values: DoubleArray): String {
    val bytes = ByteBuffer.allocate(8 * values.size).order(ByteOrder.LITTLE_ENDIAN)
    values.forEach(bytes::putDouble)
    return hex(bytes.array())
}

private fun hex(bytes: ByteArray) = MessageDigest.getInstance("SHA-256").digest(bytes).joinToString("") { "%02x".format(it) }
