package org.edgegen.ui

import org.edgegen.core.Kind
import org.edgegen.core.device.Reason
import org.junit.jupiter.api.Test
import java.util.Locale
import kotlin.test.assertEquals
import kotlin.test.assertNotEquals
import kotlin.test.assertSame
import kotlin.test.assertTrue

class StringsTest {
    private fun all(strings: Strings): Map<String, String> {
        val plain = Strings::class.java.methods.filter { it.parameterCount == 0 && it.returnType == String::class.java }
        val said = plain.associate { it.name to it.invoke(strings) as String }
        val reasons = Reason.entries.associate { it.name to strings.chosen("", it) }
        return said + reasons + Kind.entries.associate { it.name to strings.failure(it) } + mapOf(
            "step" to strings.step(1, 2), "importing" to strings.importing(3), "measuring" to strings.measuring("x", 1, 2),
            "drawnIn" to strings.drawnIn(1.5, 2), "pictureOf" to strings.pictureOf("x"),
        )
    }

    @Test
    fun `every string is there in both languages, and differs`() {
        val (english, german) = all(English) to all(German)
        assertTrue(english.size > 50)
        for ((name, text) in english) {
            assertTrue(text.isNotBlank() && german.getValue(name).isNotBlank(), name)
            assertNotEquals(text, german.getValue(name), name)
        }
    }

    @Test
    fun `numbers are written as the language does`() {
        assertEquals("1.5 s, seed 7" to "1,5 s, Startwert 7", English.drawnIn(1.5, 7) to German.drawnIn(1.5, 7))
    }

    @Test
    fun `other languages see English`() {
        assertSame(German, stringsOf(Locale.GERMANY))
        assertSame(English, stringsOf(Locale.FRANCE))
    }
}
