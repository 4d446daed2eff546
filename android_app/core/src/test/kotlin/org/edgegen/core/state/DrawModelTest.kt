package org.edgegen.core.state

import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.delay
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import kotlinx.coroutines.flow.first
import org.edgegen.core.FakeEngine
import org.edgegen.core.FakePhone
import org.edgegen.core.Kind
import org.edgegen.core.bundle.MANIFEST
import org.edgegen.core.bundle.bundleFiles
import org.edgegen.core.bundle.write
import org.edgegen.core.bundle.zipOf
import org.edgegen.core.device.FreeMemory
import org.edgegen.core.picture.PARAMETERS
import org.edgegen.core.picture.Parameters
import org.edgegen.core.picture.readTexts
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.io.InputStream
import java.util.concurrent.CountDownLatch
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue

class DrawModelTest {
    @TempDir
    lateinit var folder: File

    private val phone = FakePhone()
    private val engine = FakeEngine()

    private fun model(engine: FakeEngine = this.engine) =
        DrawModel(AppFiles(folder), mapOf("onnx" to engine), phone, CoroutineScope(Dispatchers.Default), Dispatchers.IO, chance = { 7 })

    private fun zip(files: Map<String, String> = bundleFiles()): () -> InputStream = { zipOf(files).inputStream() }

    private fun DrawModel.settle(condition: (DrawState) -> Boolean = { true }): DrawState =
        runBlocking { withTimeout(20_000) { state.first { !it.isBusy && condition(it) } } }

    private fun ready(engine: FakeEngine = this.engine): DrawModel =
        model(engine).apply {
            start()
            settle()
            importZip(zip())
            settle { it.choice != null }
        }

    @Test
    fun `a picture is drawn, kept, and carries how it was made`() {
        val model = ready()
        model.setPrompt("a red heart")
        model.generate()
        val state = model.settle { it.result != null }
        val result = assertNotNull(state.result)
        assertEquals("a red heart" to 7L, result.parameters.prompt to result.parameters.seed)
        assertEquals(result.parameters, Parameters.parse(readTexts(result.png()).getValue(PARAMETERS)))
        assertEquals(listOf(result.parameters), state.history.map { it.parameters })
        assertEquals("a-red-heart-7.png", result.fileName())
        val drawing = engine.calls.toList()
        assertEquals(listOf("encode", "encode", "release text_encoder", "velocity", "velocity", "decode"), drawing.take(6))
        assertEquals("close", drawing.last())
    }

    @Test
    fun `a stop takes effect between steps and leaves the last picture`() {
        val stepped = CountDownLatch(1)
        val goOn = CountDownLatch(1)
        val model = ready(FakeEngine { stepped.countDown().also { goOn.await() } })
        model.generate()
        stepped.await()
        model.stop()
        assertTrue((model.state.value.activity as Activity.Drawing).stopping)
        goOn.countDown()
        val state = model.settle()
        assertNull(state.result)
        assertNull(state.failure)
        assertEquals(emptyList(), state.history)
    }

    @Test
    fun `an import that fails is told and changes nothing`() {
        val model = ready()
        model.importZip(zip(bundleFiles() + ("onnx/decoder.onnx" to "other")))
        val state = model.settle { it.failure != null }
        assertEquals(Kind.CHANGED_FILE, state.failure?.kind)
        assertEquals(1, state.bundles.size)
        assertTrue(state.canGenerate)
        model.dismissFailure()
        assertNull(model.state.value.failure)
        model.importZip { throw java.io.FileNotFoundException("gone") }
        assertEquals(Kind.RUNTIME, model.settle { it.failure != null }.failure?.kind)
    }

    @Test
    fun `pushed bundles are imported and the inbox is emptied`() {
        val model = model().apply { start() }
        model.settle()
        model.importInbox()
        assertEquals(Kind.NO_BUNDLE, model.settle { it.failure != null }.failure?.kind)
        write(File(folder, "inbox/low-android"), bundleFiles())
        model.importInbox()
        assertEquals(1, model.settle { it.failure == null && it.bundles.isNotEmpty() }.bundles.size)
        assertEquals(emptyList(), AppFiles(folder).waiting())
    }

    @Test
    fun `what comes with the app is imported once`() {
        val android = bundleFiles().filterKeys { !it.startsWith("coreml/") } // assets have no folders for files
        val withoutCoreml = Regex("\\{\"name\": \"[a-z_]+\", \"backend\": \"coreml\".*?\"options\": \\{\\}\\}(, )?")
        val manifest = android.getValue(MANIFEST).replace(withoutCoreml, "").replace("}, ]", "}]")
        val shipped = listOf(Shipped("tiny") { path -> (if (path == MANIFEST) manifest else android.getValue(path)).byteInputStream() })
        fun started() = DrawModel(AppFiles(folder), mapOf("onnx" to engine), phone, CoroutineScope(Dispatchers.Default), Dispatchers.IO, shipped = shipped)
            .apply { start() }
        val model = started()
        val key = model.settle { it.bundles.size == 1 }.bundles.single().key
        model.remove(key)
        model.settle { it.bundles.isEmpty() }
        assertEquals(emptyList(), started().settle().bundles)
    }

    @Test
    fun `low memory is named, whatever the runtime would say`() {
        val model = ready()
        phone.free = FreeMemory(1 shl 20, 0, 2L shl 30)
        model.generate()
        val failure = assertNotNull(model.settle { it.failure != null }.failure)
        assertEquals(Kind.NO_MEMORY, failure.kind)
        assertTrue("MB" in failure.message!!, failure.message)
        assertFalse("velocity" in engine.calls)
    }

    @Test
    fun `settings and bundles are there after a restart`() {
        ready().change { it.copy(keepHistory = false, historyLimit = 10) }
        runBlocking { withTimeout(20_000) { while (AppFiles(folder).settings.read().historyLimit != 10) delay(10) } }
        val key = AppFiles(folder).bundles.list().single().root.name
        val first = model().apply { start() }
        first.settle { it.settings.historyLimit == 10 }
        first.choose(key)
        first.settle { it.choice?.reason == org.edgegen.core.device.Reason.USER }
        val again = model().apply { start() }
        val state = again.settle { it.choice != null }
        assertEquals(Settings(keepHistory = false, historyLimit = 10, bundle = key), state.settings)
        again.generate()
        assertEquals(emptyList(), again.settle { it.result != null }.history)
        again.remove(key)
        assertEquals(emptyList(), again.settle { it.choice == null }.bundles)
    }

    @Test
    fun `a seed that is none cannot be drawn with`() {
        val model = ready()
        for (seed in listOf("x", "-1", "1.5", "9223372036854775808")) {
            model.setSeed(seed)
            assertFalse(model.state.value.canGenerate, seed)
        }
        model.setSeed("9223372036854775807")
        model.generate()
        assertEquals(Long.MAX_VALUE, model.settle { it.result != null }.result?.parameters?.seed)
    }

    @Test
    fun `a broken folder among the bundles is passed over`() {
        write(File(folder, "bundles/broken"), mapOf(MANIFEST to "{"))
        write(File(folder, "bundles/.importing-1"), bundleFiles())
        val model = model().apply { start() }
        assertEquals(emptyList(), model.settle().bundles)
        assertEquals(listOf("broken"), File(folder, "bundles").list()!!.toList())
    }
}
