package org.edgegen.core.state

import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.getAndUpdate
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.contentOrNull
import kotlinx.serialization.json.doubleOrNull
import org.edgegen.core.Failure
import org.edgegen.core.Kind
import org.edgegen.core.bundle.Bundle
import org.edgegen.core.device.Chooser
import org.edgegen.core.device.Phone
import org.edgegen.core.device.Predictions
import org.edgegen.core.draw.Engine
import org.edgegen.core.draw.Picture
import org.edgegen.core.draw.Request
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.io.OutputStream
import kotlin.coroutines.cancellation.CancellationException
import kotlin.random.Random

/** Starts a bench of a bundle somewhere else, such as in a process of its own; see [DrawModel.measured]. */
fun interface BenchStarter {
    fun start(bundle: Bundle, backend: String)
}

/**
 * The app without its screen: holds the [state], and works off the thread that calls it.
 *
 * It outlives the screen, so that a rotation changes nothing. [engines] are by back end, the preferred first.
 */
class DrawModel(
    private val files: AppFiles,
    private val engines: Map<String, Engine>,
    private val phone: Phone,
    private val scope: CoroutineScope,
    private val worker: CoroutineDispatcher,
    predictions: Predictions = Predictions.NONE,
    private val bench: BenchStarter? = null,
    private val shipped: List<Shipped> = emptyList(),
    private val chance: () -> Long = { Random.nextLong(0, 1L shl 32) },
) {
    private val current = MutableStateFlow(DrawState(settings = files.settings.read()))
    private val chooser = Chooser(phone, predictions, engines.keys.toList())
    private val backends = engines.keys.toList()

    @Volatile
    private var stopAsked = false

    val state: StateFlow<DrawState> = current.asStateFlow()

    /** Whether bundles can be measured here. */
    val canMeasure: Boolean get() = bench != null

    /** Cleans up after interrupted imports, reads what is there and takes in what came with the app; call it once. */
    fun start() = work(Activity.Importing(0)) {
        files.bundles.cleanUp()
        files.history.cleanUp()
        refresh()
        importShipped(shipped, files, ::imported)
        refresh()
    }

    fun setPrompt(prompt: String) = current.update { it.copy(prompt = prompt) }

    fun setSeed(seed: String) = current.update { it.copy(seed = seed) }

    fun dismissFailure() = current.update { it.copy(failure = null) }

    /** Chooses a bundle by its folder's name; null leaves the choice to the app. */
    fun choose(bundle: String?) = change { it.copy(bundle = bundle) }

    /** Changes the settings, remembers them, and brings the lists up to date. */
    fun change(edit: (Settings) -> Settings) {
        val settings = edit(current.value.settings)
        current.update { it.copy(settings = settings) }
        scope.launch(worker) {
            files.settings.write(settings)
            refresh()
        }
    }

    /** Draws the prompt, or the bundle's first where none was typed; does nothing while something runs. */
    fun generate() {
        val before = current.value
        val bundle = before.choice?.bundle ?: return
        if (!before.canGenerate) return
        val prompt = before.prompt.ifBlank { bundle.manifest.prompts.first() }
        work(Activity.Drawing(0, bundle.manifest.steps, null)) {
            val seed = before.seed.toLongOrNull() ?: chance()
            draw(bundle, Request.of(bundle.manifest, prompt, seed), before.settings)
        }
    }

    /** Asks the running picture to stop after its step. */
    fun stop() {
        stopAsked = true
        current.update { state ->
            val drawing = state.activity as? Activity.Drawing ?: return@update state
            state.copy(activity = drawing.copy(stopping = true))
        }
    }

    /** Imports a zip file; [open] gives its bytes. */
    fun importZip(open: () -> InputStream) = work(Activity.Importing(0)) {
        open().use { stream -> files.bundles.importZip(stream, ::imported) }
        refresh()
    }

    /** Imports what `adb push` left in the inbox, and empties it of what was imported. */
    fun importInbox() = work(Activity.Importing(0)) {
        val waiting = files.waiting()
        if (waiting.isEmpty()) throw Failure(Kind.NO_BUNDLE, "There is no bundle in ${files.inbox}.", "Push one with adb.")
        for (folder in waiting) {
            files.bundles.importFolder(folder, ::imported)
            folder.deleteRecursively()
        }
        refresh()
    }

    /** Copies a picture's file to where the user wants it. */
    fun save(file: File, open: () -> OutputStream) = work(Activity.Importing(0)) {
        open().use { out -> file.inputStream().use { it.copyTo(out) } }
    }

    fun remove(key: String) = work(Activity.Importing(0)) {
        files.bundles.list().firstOrNull { it.key == key }?.let(files.bundles::remove)
        refresh()
    }

    fun clearHistory() = work(Activity.Importing(0)) {
        files.history.clear()
        refresh()
    }

    /** Starts a bench of the chosen bundle. */
    fun measure() {
        val bundle = current.value.choice?.bundle ?: return
        if (current.value.isBusy) return
        current.update { it.copy(activity = Activity.Measuring("", 0, 1), failure = null) }
        bench?.start(bundle, bundle.backend(backends))
    }

    /** What a bench tells of itself; null when it has ended. */
    fun measured(progress: Activity.Measuring?, failure: Failure? = null) {
        current.update { it.copy(activity = progress ?: Activity.Idle, failure = failure ?: it.failure) }
        if (progress == null) scope.launch(worker) { refresh() }
    }

    private fun draw(bundle: Bundle, request: Request, settings: Settings) {
        val backend = bundle.backend(backends)
        val drawing = Drawing(bundle, backend, engines.getValue(backend), phone)
        val (picture, parameters) = drawing.draw(request, settings.previews, { stopAsked }) { index, count, preview ->
            current.update { state -> state.copy(activity = advanced(state.activity, index, count, preview)) }
        }
        val entry = if (settings.keepHistory) files.history.add(picture, parameters, settings.historyLimit) else null
        current.update { it.copy(result = Result(picture, parameters, entry)) }
        refresh()
    }

    private fun advanced(activity: Activity, index: Int, count: Int, preview: Picture?): Activity {
        val before = activity as? Activity.Drawing
        return Activity.Drawing(index, count, preview ?: before?.preview, before?.stopping ?: false)
    }

    private fun imported(bytes: Long) = current.update { it.copy(activity = Activity.Importing(bytes)) }

    /** Runs [task] as the one thing that is done; a failure becomes part of the state. */
    private fun work(activity: Activity, task: () -> Unit) {
        val before = current.getAndUpdate { if (it.isBusy) it else it.copy(activity = activity, failure = null) }
        if (before.isBusy) return
        stopAsked = false
        scope.launch(worker) {
            val failure = failureOf(task)
            current.update { it.copy(activity = Activity.Idle, failure = failure) }
        }
    }

    private fun failureOf(task: () -> Unit): Failure? =
        try {
            task()
            null
        } catch (failure: Failure) {
            failure
        } catch (_: CancellationException) {
            null // the user stopped it
        } catch (error: IOException) {
            Failure(Kind.RUNTIME, "A file could not be read or written: ${error.message}.", "Free some space and try again.", error)
        } catch (error: OutOfMemoryError) {
            Failure(Kind.NO_MEMORY, "The app ran out of memory.", "Close other apps, or choose a smaller bundle.", error)
        }

    private fun refresh() {
        val bundles = files.bundles.list()
        val rows = files.records.read()
        val history = files.history.list()
        current.update { state ->
            state.copy(
                bundles = bundles.map(::item),
                choice = chooser.choose(bundles, rows, state.settings.bundle),
                history = history,
                times = rows.mapNotNull(::time).takeLast(SHOWN_TIMES),
            )
        }
    }

    private companion object {
        const val SHOWN_TIMES = 8
    }
}

private fun item(bundle: Bundle) =
    BundleItem(bundle.key, bundle.title, bundle.manifest.prompts, bundle.manifest.steps, bundle.manifest.guidance)

private fun time(row: JsonObject): Time? {
    fun text(name: String) = (row[name] as? JsonPrimitive)?.contentOrNull
    val median = ((row["latency_ms"] as? JsonObject)?.get("p50") as? JsonPrimitive)?.doubleOrNull
    return Time(text("component") ?: return null, text("backend") ?: return null, text("bundle") ?: return null, median ?: return null)
}
