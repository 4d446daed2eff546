package org.edgegen.core.text

import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.edgegen.core.APP
import org.edgegen.core.cases
import org.edgegen.core.int
import org.edgegen.core.ints
import org.edgegen.core.spelled
import org.edgegen.core.text
import org.edgegen.core.vectors
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.DynamicTest.dynamicTest
import org.junit.jupiter.api.TestFactory
import java.io.File
import kotlin.test.assertEquals

class TokenizersTest {
    private val vectors = vectors("prompts.json")
    private val folder = File(APP.parentFile, vectors.text("tokenizer"))
    private val lengths = vectors.getValue("lengths").jsonObject
    private val word = readWord(File(folder, "word.json").readText(), lengths.int("word"))
    private val byte = readByte(File(folder, "byte.json").readText())

    @TestFactory
    fun `ids are those of edgegen`(): List<DynamicTest> =
        cases("prompts.json").map { case ->
            dynamicTest(case.text("name")) {
                val prompt = spelled(case.getValue("prompt"))
                for ((name, tokenizer) in mapOf("word" to word, "byte" to byte)) {
                    val encoded = tokenizer.encode(prompt)
                    assertEquals(lengths.int(name), encoded.ids.size)
                    assertEquals(case.ints(name), encoded.ids.dropLastWhile { it == 0 }, "$name ids")
                    assertEquals(case.getValue("${name}_cut").jsonPrimitive.boolean, encoded.cut, "$name cut")
                }
            }
        }
}
