package org.edgegen.ui

import org.edgegen.core.Kind
import org.edgegen.core.device.Reason
import java.util.Locale

/** The screen in English. */
object English : Strings {
    override val draw = "Draw"
    override val history = "History"
    override val bundles = "Models"
    override val prompt = "What to draw"
    override val seed = "Seed"
    override val seedHint = "by chance"
    override val seedWrong = "A whole number from 0 on"
    override val generate = "Generate"
    override val stop = "Stop"
    override val stopping = "Stopping after this step"
    override val save = "Save"
    override val share = "Share"
    override val again = "Use this prompt and seed"
    override val noBundle = "There is no model here yet. Import one under Models."
    override val noPictures = "No pictures yet."
    override val previews = "Show every step"
    override val keepHistory = "Keep pictures"
    override val historyLimit = "At most"
    override val clearHistory = "Delete all pictures"
    override val importFile = "Import a file"
    override val importPushed = "Import what adb pushed"
    override val remove = "Remove"
    override val automatic = "Choose for this phone"
    override val measure = "Measure on this phone"
    override val times = "Measured on this phone"
    override val dismiss = "Close"
    override val truncated = "The prompt was too long; its end was left out."
    override val preview = "Preview"
    override val working = "Working"

    override fun step(done: Int, of: Int) = "Step $done of $of"

    override fun importing(megabytes: Long) = "Importing, $megabytes MB"

    override fun measuring(part: String, done: Int, of: Int) = "Measuring $part: $done of $of"

    override fun drawnIn(seconds: Double, seed: Long) = format("%.1f s, seed %d", seconds, seed, locale = Locale.ENGLISH)

    override fun pictureOf(prompt: String) = "Picture of: $prompt"

    override fun time(part: String, milliseconds: Double, backend: String) =
        format("%s: %.1f ms (%s)", part, milliseconds, backend, locale = Locale.ENGLISH)

    override fun chosen(title: String, reason: Reason) =
        title + when (reason) {
            Reason.USER -> ": your choice"
            Reason.MEASURED -> ": fast enough as measured here"
            Reason.PREDICTED -> ": fast enough as predicted for this phone"
            Reason.MEMORY -> ": the largest that fits this phone's memory"
            Reason.SMALLEST -> ": the smallest there is"
        }

    override fun failure(kind: Kind) =
        when (kind) {
            Kind.NO_MANIFEST, Kind.UNREADABLE_MANIFEST, Kind.BAD_FIELD, Kind.BAD_VALUE, Kind.BAD_SIGMAS, Kind.BAD_SHAPE ->
                "This is no model that can be used."
            Kind.UNKNOWN_VERSION -> "This model is for another version of the app."
            Kind.FOREIGN_NETWORKS -> "The app cannot draw with this kind of model."
            Kind.INCOMPLETE -> "This model lacks parts that this phone needs."
            Kind.PATH_OUTSIDE, Kind.BAD_ZIP -> "This file is not safe to import."
            Kind.MISSING_FILE, Kind.CHANGED_FILE -> "This model is damaged."
            Kind.NO_SPACE -> "The phone is full."
            Kind.NO_MEMORY -> "There is not enough memory."
            Kind.BAD_INPUT -> "This input cannot be used."
            Kind.NOT_FINITE, Kind.RUNTIME -> "Drawing failed."
            Kind.NO_BUNDLE -> "There is no model to import."
        }
}
