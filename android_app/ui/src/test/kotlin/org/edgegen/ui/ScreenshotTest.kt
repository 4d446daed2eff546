package org.edgegen.ui

import androidx.compose.ui.ImageComposeScene
import androidx.compose.ui.unit.Density
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.edgegen.core.device.LinuxMachine
import org.edgegen.core.state.AppFiles
import org.edgegen.core.state.DrawModel
import org.edgegen.core.state.DrawState
import org.edgegen.onnx.ONNX
import org.edgegen.onnx.OnnxEngine
import org.edgegen.onnx.realBundles
import org.jetbrains.skia.EncodedImageFormat
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import javax.imageio.ImageIO
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** The real screen after a real generation, drawn without a display; -Ddocs=DIR keeps the pictures of it. */
class ScreenshotTest {
    @TempDir
    lateinit var folder: File

    private fun DrawModel.settle(condition: (DrawState) -> Boolean): DrawState =
        runBlocking { withTimeout(60_000) { state.first { !it.isBusy && condition(it) } } }

    private fun drawn(): DrawModel {
        val files = AppFiles(folder)
        val bundle = realBundles().last()
        bundle.root.copyRecursively(File(files.inbox, bundle.root.name))
        val model = DrawModel(files, mapOf(ONNX to OnnxEngine()), LinuxMachine(), CoroutineScope(Dispatchers.Default), Dispatchers.IO)
        model.start()
        model.settle { true }
        model.importInbox()
        model.settle { it.choice != null }
        model.setPrompt(bundle.manifest.prompts[1])
        model.setSeed("0")
        model.generate()
        assertNull(model.settle { it.result != null || it.failure != null }.failure)
        return model
    }

    @Test
    fun `the screen shows the picture, tall and light, wide and dark`() {
        val model = drawn()
        for ((name, width, height) in listOf(Triple("draw", 412, 880), Triple("draw-wide-dark", 880, 500))) {
            val bytes = render(model, width, height, dark = width > height)
            assertTrue(ImageIO.read(bytes.inputStream()).let { coloursOf(it) } > 500, "$name shows little")
            System.getProperty("edgegen.docs").orEmpty().ifEmpty { null }?.let { File(it, "$name.png").writeBytes(bytes) }
        }
    }

    private fun render(model: DrawModel, width: Int, height: Int, dark: Boolean): ByteArray {
        val scene = ImageComposeScene(width, height, Density(1f)) { EdgegenScreen(model, DesktopHost(), strings = English, dark = dark) }
        try {
            scene.render()
            return requireNotNull(scene.render(1_000_000_000).encodeToData(EncodedImageFormat.PNG)).bytes
        } finally {
            scene.close()
        }
    }

    private fun coloursOf(image: java.awt.image.BufferedImage): Int =
        image.getRGB(0, 0, image.width, image.height, null, 0, image.width).toSet().size
}
