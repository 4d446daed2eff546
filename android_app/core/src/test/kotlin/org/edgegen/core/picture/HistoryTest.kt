package org.edgegen.core.picture

import org.edgegen.core.draw.Picture
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertNull

class HistoryTest {
    @TempDir
    lateinit var folder: File

    private val picture = Picture(2, 1, ByteArray(6))

    private fun parameters(seed: Long) = Parameters("a \"quoted\" лиса", seed, 4, 1.0, "emoji", "full", 16.0, "onnx", 1.5, false)

    @Test
    fun `the newest come first and the oldest go`() {
        val history = History(folder)
        (1L..5L).forEach { history.add(picture, parameters(it), limit = 3) }
        assertEquals(listOf(5L, 4L, 3L), history.list().map { it.parameters.seed })
        assertEquals(3, folder.list()!!.size)
        history.clear()
        assertEquals(emptyList(), history.list())
    }

    @Test
    fun `parameters survive, also the largest seed`() {
        val written = parameters(Long.MAX_VALUE)
        History(folder).add(picture, written, limit = 1)
        assertEquals(written, History(folder).list().single().parameters)
        assertNull(Parameters.parse("{}"))
        assertNull(Parameters.parse("no JSON"))
    }

    @Test
    fun `what is broken or was cut off is passed over`() {
        File(folder, "00000001-a.png").writeText("no picture")
        File(folder, "00000002-b.png.partial").writeText("half")
        assertEquals(emptyList(), History(folder).list())
        History(folder).cleanUp()
        assertEquals(listOf("00000001-a.png"), folder.list()!!.toList())
    }
}
