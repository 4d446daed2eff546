package org.edgegen.ui

import androidx.compose.ui.test.ComposeUiTest
import androidx.compose.ui.test.ExperimentalTestApi
import androidx.compose.ui.test.assertIsDisplayed
import androidx.compose.ui.test.assertIsNotEnabled
import androidx.compose.ui.test.hasText
import androidx.compose.ui.test.onAllNodesWithContentDescription
import androidx.compose.ui.test.onAllNodesWithText
import androidx.compose.ui.test.onNodeWithContentDescription
import androidx.compose.ui.test.onNodeWithText
import androidx.compose.ui.test.performClick
import androidx.compose.ui.test.performTextInput
import androidx.compose.ui.test.runComposeUiTest
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import org.edgegen.core.FakeEngine
import org.edgegen.core.FakePhone
import org.edgegen.core.bundle.MANIFEST
import org.edgegen.core.bundle.bundleFiles
import org.edgegen.core.bundle.foreignFiles
import org.edgegen.core.bundle.zipOf
import org.edgegen.core.cases
import org.edgegen.core.picture.PARAMETERS
import org.edgegen.core.picture.Parameters
import org.edgegen.core.picture.readTexts
import org.edgegen.core.state.AppFiles
import org.edgegen.core.state.DrawModel
import org.edgegen.core.text
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.util.concurrent.CountDownLatch
import kotlin.test.assertEquals
import kotlin.test.assertNotNull

private const val WAIT = 20_000L

@OptIn(ExperimentalTestApi::class)
class ScreenTest {
    @TempDir
    lateinit var folder: File

    private var picked = zipOf(bundleFiles())
    private lateinit var model: DrawModel
    private val host = DesktopHost(pick = { model.importZip { picked.inputStream() } })

    private fun start(engine: FakeEngine = FakeEngine()) {
        model = DrawModel(AppFiles(folder), mapOf("onnx" to engine), FakePhone(), CoroutineScope(Dispatchers.Default), Dispatchers.IO)
        model.start()
    }

    private fun ComposeUiTest.show(strings: Strings = English) = setContent { EdgegenScreen(model, host, strings = strings, dark = false) }

    private fun ComposeUiTest.await(text: String) =
        waitUntil(WAIT) { onAllNodesWithText(text, substring = true).fetchSemanticsNodes().isNotEmpty() }

    private fun ComposeUiTest.importFromPage() {
        onNodeWithText("Models").performClick()
        onNodeWithText("Import a file").performClick()
    }

    private fun ComposeUiTest.withBundle() {
        importFromPage()
        await("tiny/low-android")
        onNodeWithText("Draw").performClick()
        await("the largest that fits")
    }

    @Test
    fun `a prompt becomes a picture with its time and seed, which can be saved and shared`() = runComposeUiTest {
        start()
        show()
        await("There is no model here yet")
        onNodeWithText("Generate").assertIsNotEnabled()
        withBundle()
        onNode(hasText("What to draw")).performTextInput("a blue dog")
        onNode(hasText("Seed")).performTextInput("42")
        onNodeWithText("Generate").performClick()
        await("s, seed 42")
        onNodeWithContentDescription("Picture of: a blue dog").assertExists()
        onNodeWithText("Save").performClick()
        onNodeWithText("Share").performClick()
        assertEquals(setOf("a-blue-dog-42.png"), host.saved.keys)
        assertEquals(host.saved.keys, host.shared.keys)
        val parameters = assertNotNull(Parameters.parse(readTexts(host.saved.values.single()).getValue(PARAMETERS)))
        assertEquals("a blue dog" to 42L, parameters.prompt to parameters.seed)
        onNodeWithText("History").performClick()
        onNodeWithContentDescription("Picture of: a blue dog").performClick()
        onNodeWithText("Generate").assertExists()
    }

    @Test
    fun `stop takes effect after the step`() = runComposeUiTest {
        val (stepped, goOn) = CountDownLatch(1) to CountDownLatch(1)
        start(FakeEngine { stepped.countDown().also { goOn.await() } })
        show()
        withBundle()
        onNodeWithText("Generate").performClick()
        stepped.await()
        await("Step 0 of 4")
        onNodeWithText("Stop").performClick()
        onNodeWithText("Stopping after this step").assertIsNotEnabled()
        goOn.countDown()
        await("Generate")
        assertEquals(0, onAllNodesWithContentDescription("Picture of", substring = true).fetchSemanticsNodes().size)
    }

    @Test
    fun `an import that fails says why and can be closed`() = runComposeUiTest {
        start()
        show()
        picked = zipOf(bundleFiles() + ("onnx/decoder.onnx" to "other"))
        importFromPage()
        await("This model is damaged.")
        onNodeWithText("onnx/decoder.onnx has changed", substring = true).assertIsDisplayed()
        onNodeWithText("Close").performClick()
        assertEquals(0, onAllNodesWithText("This model is damaged.").fetchSemanticsNodes().size)
        picked = zipOf(mapOf("../evil" to "x"))
        onNodeWithText("Import a file").performClick()
        await("This file is not safe to import.")
        assertEquals(emptyList(), AppFiles(folder).bundles.list())
    }

    @Test
    fun `a bundle of another version is refused`() = runComposeUiTest {
        start()
        show()
        val files = bundleFiles()
        picked = zipOf(files + (MANIFEST to files.getValue(MANIFEST).replace("\"format_version\": 1", "\"format_version\": 9")))
        importFromPage()
        await("This model is for another version of the app.")
    }

    @Test
    fun `a bundle of another project's networks is refused by their names`() = runComposeUiTest {
        start()
        show()
        picked = zipOf(foreignFiles(cases("foreign.json").single { it.text("name") == "the pipeline sana_sprint" }))
        importFromPage()
        await("The app cannot draw with this kind of model.")
        onNodeWithText("SanaSprintPipeline with SanaTransformer2DModel, that draws with SCMScheduler", substring = true)
            .assertIsDisplayed()
        assertEquals(emptyList(), AppFiles(folder).bundles.list())
    }

    @Test
    fun `a rotation keeps prompt, picture and page`() = runComposeUiTest {
        start()
        val saved = SavedState()
        setContent { saved.Keeping { EdgegenScreen(model, host, strings = English) } }
        withBundle()
        onNode(hasText("What to draw")).performTextInput("a green rocket")
        onNodeWithText("Generate").performClick()
        await("s, seed")
        onNodeWithText("History").performClick()
        onNodeWithText("Keep pictures").assertIsDisplayed()
        runOnIdle(saved::stop)
        waitUntil(WAIT) { onAllNodesWithText("Keep pictures").fetchSemanticsNodes().isEmpty() }
        runOnIdle(saved::restore)
        onNodeWithText("Keep pictures").assertIsDisplayed()
        onNodeWithText("Draw").performClick()
        onNode(hasText("a green rocket")).assertExists()
        onNodeWithContentDescription("Picture of: a green rocket").assertExists()
    }

    @Test
    fun `the screen speaks German`() = runComposeUiTest {
        start()
        show(German)
        await("Es ist noch kein Modell da")
        onNodeWithText("Erzeugen").assertExists()
    }
}
