package org.edgegen.core.bundle

import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.edgegen.core.Failure
import org.edgegen.core.Kind
import org.edgegen.core.cases
import org.edgegen.core.text
import org.edgegen.core.vectors
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.ByteArrayInputStream
import java.io.File
import java.io.InputStream
import java.util.concurrent.TimeUnit
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class BundleStoreTest {
    @TempDir
    lateinit var folder: File

    private val store by lazy { BundleStore(File(folder, "bundles")) }

    private fun names(): List<String> = File(folder, "bundles").list().orEmpty().toList()

    private fun zipped(files: Map<String, String>): InputStream = ByteArrayInputStream(zipOf(files))

    @Test
    fun `a folder is imported whole and without what the manifest does not list`() {
        val source = write(File(folder, "source"), bundleFiles() + ("notes.txt" to "mine"))
        val bundle = store.importFolder(source)
        assertEquals(listOf("tiny-low-android-4.300"), names())
        assertEquals(listOf(bundle.manifest), store.list().map { it.manifest })
        assertEquals(bundleFiles().keys, bundle.root.walkTopDown().filter { it.isFile }.map { it.relativeTo(bundle.root).path }.toSet())
    }

    @Test
    fun `a zip file may have the bundle at its top or in one folder`() {
        for (prefix in listOf("", "low-android/")) {
            store.importZip(zipped(bundleFiles().mapKeys { prefix + it.key }))
            assertEquals(listOf("tiny-low-android-4.300"), names())
            store.remove(store.list().single())
            assertTrue(names().isEmpty())
        }
    }

    @Test
    fun `a bundle of several tiers is imported once and listed by tier`() {
        val vectors = vectors("tiers.json")
        val files = vectors.getValue("files").jsonObject.mapValues { it.value.jsonPrimitive.content }
        store.importZip(zipped(files + (MANIFEST to vectors.text("manifest"))))
        assertEquals(listOf("tiny-low-android-4.300"), names())
        assertEquals(listOf("low-android", "high-phone", "full"), store.list().map { it.manifest.tier })
        store.remove(store.list().last())
        assertTrue(names().isEmpty())
    }

    @Test
    fun `importing again replaces`() {
        repeat(2) { store.importZip(zipped(bundleFiles())) }
        assertEquals(1, store.list().size)
        assertEquals(listOf("tiny-low-android-4.300"), names())
    }

    @Test
    fun `no broken bundle is imported, as a folder or a zip file`() {
        for (case in cases("broken_bundles.json")) {
            val files = bundleFiles(case)
            val source = write(File(folder, "source ${case.text("name")}"), files)
            for (import in listOf({ store.importFolder(source) }, { store.importZip(zipped(files)) })) {
                assertEquals(case.text("kind"), assertFailsWith<Failure> { import() }.kind.word, case.text("name"))
                assertEquals(emptyList(), names(), case.text("name"))
            }
        }
    }

    @Test
    fun `a zip file that climbs is refused and writes nothing outside`() {
        for (name in listOf("../evil", "onnx/../../evil", "/evil", "..\\evil", "C:/evil")) {
            val failure = assertFailsWith<Failure> { store.importZip(zipped(mapOf(name to "x") + bundleFiles())) }
            assertEquals(Kind.BAD_ZIP, failure.kind, name)
        }
        assertEquals(listOf("bundles"), folder.list()!!.toList())
        assertEquals(emptyList(), names())
    }

    @Test
    fun `what is no whole zip file is refused`() {
        val whole = zipOf(bundleFiles())
        for (bytes in listOf(ByteArray(0), "no zip".encodeToByteArray(), whole.copyOf(whole.size / 2))) {
            val failure = assertFailsWith<Failure> { store.importZip(ByteArrayInputStream(bytes)) }
            assertTrue(failure.kind in setOf(Kind.BAD_ZIP, Kind.NO_MANIFEST, Kind.MISSING_FILE), "${failure.kind}")
            assertEquals(emptyList(), names())
        }
    }

    @Test
    fun `a full phone is told before or while copying`() {
        val full = BundleStore(File(folder, "bundles")) { 1 shl 20 }
        val source = write(File(folder, "source"), bundleFiles())
        for (import in listOf({ full.importFolder(source) }, { full.importZip(zipped(bundleFiles())) })) {
            assertEquals(Kind.NO_SPACE, assertFailsWith<Failure> { import() }.kind)
            assertEquals(emptyList(), names())
        }
    }

    @Test
    fun `a manifest's names do not choose the folder`() {
        val files = bundleFiles()
        val climbing = files.getValue(MANIFEST).replace("\"model\": \"tiny\"", "\"model\": \"../../tiny\"")
        store.importZip(zipped(files + (MANIFEST to climbing)))
        assertEquals(listOf("_.._tiny-low-android-4.300"), names())
        assertEquals(listOf("bundles"), folder.list()!!.toList())
    }

    @Test
    fun `a killed import leaves nothing that looks whole`() {
        val root = File(folder, "bundles").apply { mkdirs() }
        val command = listOf(File(System.getProperty("java.home"), "bin/java").path, "-cp", System.getProperty("java.class.path"),
            "-Dedgegen.app=${System.getProperty("edgegen.app")}", "org.edgegen.core.bundle.StalledImportKt", root.path)
        val child = ProcessBuilder(command).redirectErrorStream(true).start()
        try {
            assertEquals("stalled", child.inputStream.bufferedReader().readLine())
            child.destroyForcibly().waitFor(10, TimeUnit.SECONDS)
        } finally {
            child.destroyForcibly()
        }
        assertEquals(1, names().count { it.startsWith(".importing-") }, "${names()}")
        assertEquals(emptyList(), store.list())
        store.cleanUp()
        assertEquals(emptyList(), names())
    }

    @Test
    fun `a bundle that was being replaced is put back`() {
        val bundle = store.importZip(zipped(bundleFiles()))
        bundle.root.renameTo(File(bundle.root.parentFile, ".replaced-${bundle.root.name}"))
        assertEquals(emptyList(), store.list())
        store.cleanUp()
        assertEquals(listOf(bundle.manifest), store.list().map { it.manifest })
    }
}
