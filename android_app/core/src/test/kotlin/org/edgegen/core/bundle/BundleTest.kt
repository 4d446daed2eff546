package org.edgegen.core.bundle

import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.edgegen.core.Failure
import org.edgegen.core.Kind
import org.edgegen.core.cases
import org.edgegen.core.number
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

class BundleTest {
    @TempDir
    lateinit var folder: File

    @Test
    fun `every field of a manifest is read`() {
        val bundle = Bundle.open(write(folder, bundleFiles()))
        val manifest = bundle.manifest
        assertEquals(listOf("tiny", "low-android"), listOf(manifest.model, manifest.tier))
        assertEquals(listOf(0.375, 3.0, 2.5, 4.3), listOf(manifest.width, manifest.shift, manifest.guidance, manifest.bits))
        assertEquals(listOf(24, 16) to listOf(1, 4, 2, 3), manifest.resolution to manifest.latentShape)
        assertEquals(TimestepDefinition(16, 1000.0, 10000.0, "cos,sin"), manifest.timestepFeatures)
        assertEquals(mapOf("byte" to 20, "word" to 8), manifest.tokenizers.associate { it.name to it.length })
        assertEquals("лиса", manifest.prompts[1])
        assertEquals(90.0, manifest.floorsDb["onnx/decoder"])
        assertEquals(setOf("coreml", "onnx", "executorch"), manifest.wholeBackends.toSet())
        assertEquals("4", bundle.artifact(TRANSFORMER, "onnx").options["session.qdq_matmulnbits_accuracy_level"])
        assertEquals("tiny/low-android, 4.3 bit", bundle.title)
    }

    @Test
    fun `each tier of a bundle is as if it were alone`() {
        val vectors = vectors("tiers.json")
        val files = vectors.getValue("files").jsonObject.mapValues { it.value.jsonPrimitive.content }
        val bundle = Bundle.open(write(folder, files + (MANIFEST to vectors.text("manifest"))))
        val told = vectors.getValue("tiers").jsonArray.map { it.jsonObject }
        assertEquals(told.map { it.text("tier") to it.number("width") }, bundle.tiers.map { it.manifest.tier to it.manifest.width })
        assertEquals(told.map { it.number("floor_db") }, bundle.tiers.map { it.manifest.floorsDb["onnx"] })
        val paths = told.map { tier -> tier.getValue("paths").jsonArray.map { it.jsonPrimitive.content } }
        assertEquals(paths, bundle.tiers.map { tier -> tier.manifest.components.map { it.path } })
        assertEquals(listOf("", "/high-phone", "/full").map { folder.name + it }, bundle.tiers.map { it.key })
        assertEquals(files.keys.size, folder.walkTopDown().count { it.isFile } - 1)
        File(folder, "full/onnx/transformer.onnx").appendText("x")
        assertEquals(Kind.CHANGED_FILE, assertFailsWith<Failure> { Bundle.open(folder) }.kind)
    }

    @TestFactory
    fun `a broken bundle is refused for its own reason`(): List<DynamicTest> =
        cases("broken_bundles.json").map { case ->
            dynamicTest(case.text("name")) {
                val root = write(Files.createTempDirectory(folder.toPath(), "bundle").toFile(), bundleFiles(case))
                val failure = assertFailsWith<Failure> { Bundle.open(root) }
                assertEquals(case.text("kind"), failure.kind.word, failure.message)
                assertTrue(failure.message!!.endsWith(".") && '\n' !in failure.message!!, "one line: ${failure.message}")
            }
        }

    @Test
    fun `a link out of the bundle is refused`() {
        val root = write(File(folder, "bundle"), bundleFiles())
        val outside = File(folder, "outside").apply { writeText("decoder of onnx\n") }
        val decoder = File(root, "onnx/decoder.onnx").apply { delete() }
        Files.createSymbolicLink(decoder.toPath(), outside.toPath())
        assertEquals(Kind.PATH_OUTSIDE, assertFailsWith<Failure> { Bundle.open(root) }.kind)
    }

    @Test
    fun `digests of folders follow the contract`() {
        for (case in cases("digests.json")) {
            val files = case.getValue("files").jsonObject.mapValues { it.value.jsonPrimitive.content }
            val digest = folderDigest(files.mapValues { digestOf(it.value.byteInputStream()) })
            assertEquals(Digest(case.text("sha256"), case.number("bytes").toLong()), digest, case.text("name"))
            if (files.keys.all { path -> path.all { it < '\u0080' } }) { // other names depend on the system's locale
                val root = write(File(folder, case.text("name")).apply { mkdirs() }, files)
                assertEquals(digest, digestOf(root), case.text("name"))
            }
        }
    }
}
