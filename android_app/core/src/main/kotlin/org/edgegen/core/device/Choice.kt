package org.edgegen.core.device

import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.contentOrNull
import kotlinx.serialization.json.doubleOrNull
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import org.edgegen.core.bench.PICTURE
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.bundle.parseStrictly

/** Why a bundle was chosen. */
enum class Reason { USER, MEASURED, PREDICTED, MEMORY, SMALLEST }

/** The bundle to draw with, and why. */
data class Choice(val bundle: Bundle, val reason: Reason)

/** The longest a picture may take before a narrower network is chosen. */
const val PATIENCE_SECONDS = 5.0

/**
 * Chooses the widest bundle that the phone has memory for and that draws within [PATIENCE_SECONDS], measured on this
 * phone or else predicted for its chip; without either, the widest that fits. The user's own choice comes first.
 *
 * Null where there is no bundle.
 */
class Chooser(private val phone: Phone, private val predictions: Predictions, private val backends: List<String>) {
    fun choose(bundles: List<Bundle>, measured: List<JsonObject>, asked: String?): Choice? {
        bundles.firstOrNull { it.key == asked }?.let { return Choice(it, Reason.USER) }
        val usable = bundles.filter { bundle -> backends.any { it in bundle.manifest.wholeBackends } }
        val widestFirst = usable.sortedWith(compareByDescending<Bundle> { it.manifest.width }.thenBy { it.manifest.bits })
        return widestFirst.firstNotNullOfOrNull { suited(it, measured) } ?: widestFirst.lastOrNull()?.let { Choice(it, Reason.SMALLEST) }
    }

    private fun suited(bundle: Bundle, measured: List<JsonObject>): Choice? {
        val backend = bundle.backend(backends)
        val free = phone.freeMemory()
        if (free != null && neededBytes(bundle, backend) > free.availableBytes - free.thresholdBytes) return null
        val seconds = measuredSeconds(bundle, backend, measured)
        val reason = if (seconds != null) Reason.MEASURED else Reason.PREDICTED
        val told = seconds ?: predictions.seconds(phone.machine(), bundle, backend) ?: return Choice(bundle, Reason.MEMORY)
        return if (told <= PATIENCE_SECONDS) Choice(bundle, reason) else null
    }
}

/** The median of the last whole measurement of a bundle's picture: rows count only for the very same artifacts. */
internal fun measuredSeconds(bundle: Bundle, backend: String, rows: List<JsonObject>): Double? {
    val hashes = bundle.manifest.components.filter { it.backend == backend }.map { it.sha256 }.toSet()
    val row = rows.lastOrNull { text(it, "component") == PICTURE && text(it, "backend") == backend && hashesOf(it) == hashes }
    return ((row?.get("latency_ms") as? JsonObject)?.get("p50") as? JsonPrimitive)?.doubleOrNull?.div(1e3)
}

private fun hashesOf(row: JsonObject): Set<String?> =
    row["artifacts"]?.jsonArray?.map { text(it.jsonObject, "sha256") }.orEmpty().toSet()

private fun text(values: JsonObject, name: String): String? = (values[name] as? JsonPrimitive)?.contentOrNull

/** What edgegen predicted for phones when it made the project: `predictions.json` among the app's assets. */
class Predictions private constructor(private val devices: List<JsonObject>) {
    /** edgegen's name of a phone, by its model, such as "pixel8" for "Pixel 8"; null where it has none. */
    fun deviceName(model: String): String? =
        devices.firstOrNull { model.contains(text(it, "title").orEmpty(), ignoreCase = true) }?.let { text(it, "name") }

    /** Seconds of a picture on a machine's chip; null where nothing was predicted. */
    fun seconds(machine: Machine, bundle: Bundle, backend: String): Double? {
        val key = "${bundle.artifact("transformer", backend).sha256}/$backend"
        val device = devices.firstOrNull { text(it, "name") == machine.device } ?: devices.firstOrNull { isChip(it, machine) }
        return ((device?.get("picture_ms") as? JsonObject)?.get(key) as? JsonPrimitive)?.doubleOrNull?.div(1e3)
    }

    private fun isChip(device: JsonObject, machine: Machine): Boolean =
        machine.soc != null && machine.soc.contains(text(device, "chip").orEmpty(), ignoreCase = true)

    companion object {
        val NONE = Predictions(emptyList())

        /** Of a file {"devices": [{name, title, chip, picture_ms: {"<transformer's sha256>/<back end>": ms}}]}. */
        fun parse(text: String): Predictions =
            Predictions(parseStrictly(text).jsonObject.getValue("devices").jsonArray.map { it.jsonObject })
    }
}
