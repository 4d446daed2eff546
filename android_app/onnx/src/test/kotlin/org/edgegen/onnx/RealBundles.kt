package org.edgegen.onnx

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.text
import org.junit.jupiter.api.Assumptions.assumeTrue
import java.io.File

/** The bundles of -Dbundles=A:B, each with what ci/expected.py wrote beside it; without them a test is skipped. */
fun realBundles(): List<Bundle> {
    val folders = System.getProperty("edgegen.bundles").orEmpty().split(':').filter { it.isNotBlank() }
    assumeTrue(folders.isNotEmpty(), "skipped: no exported bundle was given (-Dbundles=DIR)")
    return folders.map { Bundle.open(File(it)) }
}

private fun expectations(bundle: Bundle): JsonObject =
    Json.parseToJsonElement(File(expectedFolder(bundle), "expected.json").readText()).jsonObject

/** What edgegen drew of a bundle. */
fun expected(bundle: Bundle): List<JsonObject> =
    expectations(bundle).getValue("cases").jsonArray.map { it.jsonObject }.also { check(it.isNotEmpty()) }

/** The ONNX Runtime that it drew with. */
fun expectedVersion(bundle: Bundle): String = expectations(bundle).text("onnxruntime")

fun expectedFolder(bundle: Bundle) = File("${bundle.root.path}.expected")
