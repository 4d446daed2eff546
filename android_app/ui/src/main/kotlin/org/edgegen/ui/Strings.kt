package org.edgegen.ui

import androidx.compose.runtime.staticCompositionLocalOf
import org.edgegen.core.Kind
import org.edgegen.core.device.Reason
import java.util.Locale

/** Everything the screen says, in one language. */
interface Strings {
    val draw: String
    val history: String
    val bundles: String
    val prompt: String
    val seed: String
    val seedHint: String
    val seedWrong: String
    val generate: String
    val stop: String
    val stopping: String
    val save: String
    val share: String
    val again: String
    val noBundle: String
    val noPictures: String
    val previews: String
    val keepHistory: String
    val historyLimit: String
    val clearHistory: String
    val importFile: String
    val importPushed: String
    val remove: String
    val automatic: String
    val measure: String
    val times: String
    val dismiss: String
    val truncated: String
    val preview: String
    val working: String

    fun step(done: Int, of: Int): String

    fun importing(megabytes: Long): String

    fun measuring(part: String, done: Int, of: Int): String

    fun drawnIn(seconds: Double, seed: Long): String

    fun pictureOf(prompt: String): String

    fun time(part: String, milliseconds: Double, backend: String): String

    fun chosen(title: String, reason: Reason): String

    /** What went wrong, in a few words; the failure's own message names the values. */
    fun failure(kind: Kind): String
}

val LocalStrings = staticCompositionLocalOf<Strings> { English }

/** The strings of a locale's language, English where there are none. */
fun stringsOf(locale: Locale): Strings = if (locale.language == "de") German else English

internal fun format(pattern: String, vararg values: Any, locale: Locale): String = String.format(locale, pattern, *values)
