package org.edgegen.core.bench

import kotlinx.serialization.json.JsonArrayBuilder
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonObjectBuilder
import kotlinx.serialization.json.add
import kotlinx.serialization.json.addJsonObject
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put
import kotlinx.serialization.json.putJsonArray
import kotlinx.serialization.json.putJsonObject
import org.edgegen.core.bundle.Artifact
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.device.Conditions
import org.edgegen.core.device.Machine
import kotlin.math.roundToLong

/** Where and under which conditions something was measured. */
class Surroundings(
    val date: String, // ISO 8601 with its offset
    val machine: Machine,
    val versions: Map<String, String>,
    val before: Conditions,
    val after: Conditions,
)

/** A row of a record in edgegen's format (edgegen/bench/row.py), with what only a phone knows in addition. */
fun measuredRow(
    bundle: Bundle,
    backend: String,
    part: String,
    measurement: Measurement,
    settings: BenchSettings,
    surroundings: Surroundings,
): JsonObject =
    buildJsonObject {
        put("source", "measured")
        put("device", surroundings.machine.device)
        put("compute_unit", "cpu")
        putSurroundings(surroundings)
        putIdentity(bundle, backend, part)
        put("partial", false)
        put("noisy", measurement.summary.isNoisy)
        putSettings(settings, measurement.block, bundle.manifest.steps.takeIf { part == PICTURE })
        put("load_ms", rounded(measurement.loadMs))
        put("first_ms", rounded(measurement.firstMs))
        putLatency(measurement)
        putMemory(measurement)
    }

private fun JsonObjectBuilder.putSurroundings(surroundings: Surroundings) {
    val (before, after) = surroundings.before to surroundings.after
    put("date", surroundings.date)
    put("commit", null as String?)
    putMachine(surroundings.machine)
    putJsonObject("conditions") {
        put("charging", before.charging)
        put("battery", before.battery)
        put("power_save", before.powerSave)
        put("thermal_before", before.thermal)
        put("thermal_after", after.thermal)
    }
    putJsonObject("versions") { surroundings.versions.forEach { (name, version) -> put(name, version) } }
}

private fun JsonObjectBuilder.putMachine(machine: Machine) =
    putJsonObject("machine") {
        put("processor", machine.processor)
        put("cores", machine.cores)
        put("memory_bytes", machine.memoryBytes)
        put("load_1min", machine.load1min)
        put("system", machine.system)
        put("model", machine.model)
        put("soc", machine.soc)
        put("build", machine.build)
    }

private fun JsonObjectBuilder.putIdentity(bundle: Bundle, backend: String, part: String) {
    val manifest = bundle.manifest
    val artifacts = manifest.components.filter { it.backend == backend && (part == PICTURE || it.name == part) }
    put("model", manifest.model)
    put("tier", manifest.tier)
    put("width", manifest.width)
    putJsonArray("resolution") { manifest.resolution.forEach { add(it) } }
    put("bits", manifest.bits)
    put("bundle", bundle.key)
    put("component", part)
    put("backend", backend)
    put("form", artifacts.first().form)
    putJsonArray("artifacts") { artifacts.forEach { addArtifact(it) } }
}

private fun JsonArrayBuilder.addArtifact(artifact: Artifact) =
    addJsonObject {
        put("path", artifact.path)
        put("sha256", artifact.sha256)
        put("bytes", artifact.bytes)
        put("resident_bytes", artifact.residentBytes)
    }

private fun JsonObjectBuilder.putSettings(settings: BenchSettings, block: Int, steps: Int?) =
    putJsonObject("settings") {
        put("runs", settings.runs)
        put("seconds", settings.seconds)
        put("warmup", settings.warmup)
        put("threads", settings.threads)
        put("block", block)
        putJsonArray("in_turn_with") {}
        if (steps != null) put("steps", steps)
    }

private fun JsonObjectBuilder.putLatency(measurement: Measurement) =
    putJsonObject("latency_ms") {
        val summary = measurement.summary
        put("n", summary.n)
        put("min", rounded(summary.min))
        put("p50", rounded(summary.p50))
        put("p90", rounded(summary.p90))
        put("p95", rounded(summary.p95))
        put("max", rounded(summary.max))
        put("trimmed_mean", rounded(summary.trimmedMean))
        put("cv", rounded(summary.cv))
        put("cv_trimmed", rounded(summary.cvTrimmed))
        putJsonArray("runs") { measurement.runs.forEach { add(rounded(it)) } }
    }

private fun JsonObjectBuilder.putMemory(measurement: Measurement) {
    if (measurement.peakBytes == 0L) return put("memory", null as String?).let {}
    putJsonObject("memory") {
        put("base_bytes", measurement.baseBytes)
        put("loaded_bytes", measurement.loadedBytes)
        put("peak_bytes", measurement.peakBytes)
        put("peak_over_base_bytes", maxOf(0, measurement.peakBytes - measurement.baseBytes))
    }
}

/** To four decimals, as edgegen's rows; a time never becomes 0. */
private fun rounded(value: Double): Double = (value * 1e4).roundToLong() / 1e4
