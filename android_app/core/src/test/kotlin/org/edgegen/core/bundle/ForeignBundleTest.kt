package org.edgegen.core.bundle

import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonPrimitive
import org.edgegen.core.Failure
import org.edgegen.core.Kind
import org.edgegen.core.cases
import org.edgegen.core.int
import org.edgegen.core.text
import org.edgegen.core.vectors
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.DynamicTest.dynamicTest
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestFactory
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.nio.file.Files
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class ForeignBundleTest {
    @TempDir
    lateinit var folder: File

    private val limit = vectors("foreign.json").int("limit")

    private fun case(name: String): JsonObject = cases("foreign.json").single { it.text("name") == name }

    private fun said(failure: Failure) = "${failure.message} ${failure.remedy}"

    @TestFactory
    fun `it is refused by the names that it gives, opened or imported`(): List<DynamicTest> =
        cases("foreign.json").map { case ->
            dynamicTest(case.text("name")) {
                val here = Files.createTempDirectory(folder.toPath(), "case").toFile()
                val files = foreignFiles(case)
                val source = write(File(here, "source"), files)
                val store = BundleStore(File(here, "bundles"))
                val failure = assertFailsWith<Failure> { Bundle.open(source) }
                assertEquals(case.text("kind"), failure.kind.word, said(failure))
                val words = case.getValue("says").jsonArray.map { it.jsonPrimitive.content }
                assertTrue(words.isNotEmpty() && words.all { it in said(failure) }, "$words in ${said(failure)}")
                assertTrue(said(failure).all { it in ' '..'~' || it == '…' } && said(failure).length <= limit, said(failure))
                for (import in listOf({ store.importFolder(source) }, { store.importZip(zipOf(files).inputStream()) })) {
                    assertEquals(said(failure), said(assertFailsWith<Failure> { import() }))
                }
                assertEquals(0, File(here, "bundles").list()!!.size)
            }
        }

    @Test
    fun `a real one is named in full`() {
        val failure = assertFailsWith<Failure> { Bundle.open(write(folder, foreignFiles(case("the pipeline pixart")))) }
        assertEquals(Kind.FOREIGN_NETWORKS, failure.kind)
        assertEquals(
            "manifest.json: this bundle is a pipeline, PixArtSigmaPipeline with PixArtTransformer2DModel, that draws with " +
                "DPMSolverMultistepScheduler (sampler DPM-Solver++, prediction epsilon, guidance batch); this app draws with " +
                "edgegen's own networks and flow-matching Euler. On a computer, edgegen generate draws with it.",
            said(failure),
        )
    }

    @Test
    fun `an index that lies outside or is huge is not read`() {
        val files = foreignFiles(case("the pipeline pixart, as it was"))
        val root = write(File(folder, "bundle"), files)
        val index = File(root, "pipeline/model_index.json")
        val outside = File(folder, "outside.json").apply { writeText(index.readText()) }
        index.delete()
        Files.createSymbolicLink(index.toPath(), outside.toPath())
        val linked = assertFailsWith<Failure> { Bundle.open(root) }
        assertEquals(Kind.FOREIGN_NETWORKS, linked.kind)
        assertTrue("PixArtSigmaPipeline" !in said(linked))
        index.delete()
        index.writeText(outside.readText() + " ".repeat(1 shl 20))
        assertEquals(said(linked), said(assertFailsWith<Failure> { Bundle.open(root) }))
    }

    @Test
    fun `nesting without end is no manifest`() {
        for (depth in listOf(65, 1_000_000)) {
            val text = "{\"format_version\": 2, \"pipeline\": ${"[".repeat(depth)}${"]".repeat(depth)}}"
            val failure = assertFailsWith<Failure> { parseManifest(text) }
            assertEquals(Kind.UNREADABLE_MANIFEST, failure.kind, "$depth")
            assertTrue(said(failure).length <= limit)
        }
    }
}
