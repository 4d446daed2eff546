package org.edgegen.core.picture

import org.edgegen.core.Failure
import org.edgegen.core.draw.Picture
import org.junit.jupiter.api.Test
import javax.imageio.ImageIO
import kotlin.random.Random
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class PngTest {
    private val picture = Picture(7, 5, Random(1).nextBytes(7 * 5 * 3))
    private val texts = mapOf(PARAMETERS to "{\"prompt\":\"лиса 🦊\"}", "Software" to "edgegen")

    @Test
    fun `another reader sees the same pixels`() {
        val read = ImageIO.read(encodePng(picture, texts).inputStream())
        assertEquals(listOf(7, 5), listOf(read.width, read.height))
        assertContentEquals(picture.argb(), read.getRGB(0, 0, 7, 5, null, 0, 7))
    }

    @Test
    fun `texts come back`() {
        assertEquals(texts, readTexts(encodePng(picture, texts)))
        assertEquals(emptyMap(), readTexts(encodePng(picture)))
    }

    @Test
    fun `a file that is no whole PNG is refused`() {
        val whole = encodePng(picture, texts)
        for (bytes in listOf(ByteArray(0), "GIF89a".encodeToByteArray(), whole.copyOf(whole.size - 20))) {
            assertFailsWith<Failure> { readTexts(bytes) }
        }
    }
}
