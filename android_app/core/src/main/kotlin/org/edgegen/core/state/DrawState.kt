package org.edgegen.core.state

import org.edgegen.core.Failure
import org.edgegen.core.device.Choice
import org.edgegen.core.draw.Picture
import org.edgegen.core.picture.Entry
import org.edgegen.core.picture.PARAMETERS
import org.edgegen.core.picture.Parameters
import org.edgegen.core.picture.encodePng

/** What the app is doing. */
sealed interface Activity {
    data object Idle : Activity

    /** [step] of [count] is done; [preview] is what it aims at. */
    data class Drawing(val step: Int, val count: Int, val preview: Picture?, val stopping: Boolean = false) : Activity

    data class Importing(val bytes: Long) : Activity

    data class Measuring(val part: String, val done: Int, val of: Int) : Activity
}

/** A picture that was drawn and its file, if history is kept. */
data class Result(val picture: Picture, val parameters: Parameters, val entry: Entry?)

/** A bundle in the list: its folder's name and what people call it. */
data class BundleItem(val key: String, val title: String, val prompts: List<String>, val steps: Int, val guidance: Double)

/** A measured time of a part, for the list. */
data class Time(val part: String, val backend: String, val bundle: String, val milliseconds: Double)

/** All that the screen shows. */
data class DrawState(
    val prompt: String = "",
    val seed: String = "",
    val activity: Activity = Activity.Idle,
    val bundles: List<BundleItem> = emptyList(),
    val choice: Choice? = null,
    val result: Result? = null,
    val failure: Failure? = null,
    val history: List<Entry> = emptyList(),
    val times: List<Time> = emptyList(),
    val settings: Settings = Settings(),
) {
    val isBusy: Boolean get() = activity != Activity.Idle

    val canGenerate: Boolean get() = !isBusy && choice != null && isSeed(seed)
}

/** Whether a text is a seed; the empty one stands for a seed by chance. */
fun isSeed(text: String): Boolean = text.isEmpty() || text.toLongOrNull()?.let { it >= 0 } == true

/** The picture as a PNG file that carries its parameters. */
fun Result.png(): ByteArray = encodePng(picture, mapOf(PARAMETERS to parameters.toJson()))

/** A file name that resembles the prompt, with the seed. */
fun Result.fileName(): String {
    val words = parameters.prompt.lowercase().map { if (it in 'a'..'z' || it in '0'..'9') it else ' ' }.joinToString("")
    return (words.split(' ').filter { it.isNotEmpty() }.joinToString("-").take(60).ifEmpty { "picture" }) + "-${parameters.seed}.png"
}
