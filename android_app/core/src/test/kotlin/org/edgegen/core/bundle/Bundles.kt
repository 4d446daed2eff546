package org.edgegen.core.bundle

import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.contentOrNull
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.edgegen.core.text
import org.edgegen.core.vectors
import java.io.ByteArrayOutputStream
import java.io.File
import java.util.zip.ZipEntry
import java.util.zip.ZipOutputStream

private val NO_CHANGE = JsonObject(emptyMap())

/** The small bundle of the test vectors, by path, with the change of a broken case. */
fun bundleFiles(case: JsonObject = NO_CHANGE): Map<String, String> {
    val whole = vectors("bundle.json")
    var manifest = whole.text("manifest")
    case["replace"]?.jsonArray?.map { it.jsonPrimitive.content }?.let { (old, new) ->
        check(manifest.split(old).size == 2) { "$old is not there once" }
        manifest = manifest.replace(old, new)
    }
    val files = texts(whole.getValue("files").jsonObject) + (MANIFEST to manifest)
    val written = case["write"]?.jsonObject?.let(::texts).orEmpty()
    return files + written - setOfNotNull(case["delete"]?.jsonPrimitive?.content)
}

/** What a bundle of another project's networks says of itself, by path. */
fun foreignFiles(case: JsonObject): Map<String, String> {
    val index = case.getValue("index").jsonPrimitive.contentOrNull
    return mapOf(MANIFEST to case.text("manifest")) + listOfNotNull(index).associateBy { "pipeline/model_index.json" }
}

private fun texts(values: JsonObject) = values.mapValues { it.value.jsonPrimitive.content }

/** Writes files by path below a folder and returns it. */
fun write(folder: File, files: Map<String, String>): File {
    files.forEach { (path, text) -> File(folder, path).apply { parentFile.mkdirs() }.writeText(text) }
    return folder
}

/** A zip file of texts by name. */
fun zipOf(files: Map<String, String>): ByteArray {
    val bytes = ByteArrayOutputStream()
    ZipOutputStream(bytes).use { zip ->
        files.forEach { (path, text) ->
            zip.putNextEntry(ZipEntry(path))
            zip.write(text.encodeToByteArray())
        }
    }
    return bytes.toByteArray()
}
