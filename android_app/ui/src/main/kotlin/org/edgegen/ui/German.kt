package org.edgegen.ui

import org.edgegen.core.Kind
import org.edgegen.core.device.Reason
import java.util.Locale

/** The screen in German. */
object German : Strings {
    override val draw = "Zeichnen"
    override val history = "Verlauf"
    override val bundles = "Modelle"
    override val prompt = "Was gezeichnet wird"
    override val seed = "Startwert"
    override val seedHint = "zufällig"
    override val seedWrong = "Eine ganze Zahl ab 0"
    override val generate = "Erzeugen"
    override val stop = "Anhalten"
    override val stopping = "Hält nach diesem Schritt an"
    override val save = "Speichern"
    override val share = "Teilen"
    override val again = "Diesen Text und Startwert verwenden"
    override val noBundle = "Es ist noch kein Modell da. Unter Modelle lässt sich eines importieren."
    override val noPictures = "Noch keine Bilder."
    override val previews = "Jeden Schritt zeigen"
    override val keepHistory = "Bilder behalten"
    override val historyLimit = "Höchstens"
    override val clearHistory = "Alle Bilder löschen"
    override val importFile = "Datei importieren"
    override val importPushed = "Mit adb Übertragenes importieren"
    override val remove = "Entfernen"
    override val automatic = "Für dieses Telefon wählen"
    override val measure = "Auf diesem Telefon messen"
    override val times = "Auf diesem Telefon gemessen"
    override val dismiss = "Schließen"
    override val truncated = "Der Text war zu lang; sein Ende blieb weg."
    override val preview = "Vorschau"
    override val working = "Einen Moment"

    override fun step(done: Int, of: Int) = "Schritt $done von $of"

    override fun importing(megabytes: Long) = "Importiert, $megabytes MB"

    override fun measuring(part: String, done: Int, of: Int) = "Misst $part: $done von $of"

    override fun drawnIn(seconds: Double, seed: Long) = format("%.1f s, Startwert %d", seconds, seed, locale = Locale.GERMAN)

    override fun pictureOf(prompt: String) = "Bild von: $prompt"

    override fun time(part: String, milliseconds: Double, backend: String) =
        format("%s: %.1f ms (%s)", part, milliseconds, backend, locale = Locale.GERMAN)

    override fun chosen(title: String, reason: Reason) =
        title + when (reason) {
            Reason.USER -> ": selbst gewählt"
            Reason.MEASURED -> ": schnell genug, hier gemessen"
            Reason.PREDICTED -> ": schnell genug, für dieses Telefon vorhergesagt"
            Reason.MEMORY -> ": das größte, das in den Speicher passt"
            Reason.SMALLEST -> ": das kleinste, das da ist"
        }

    override fun failure(kind: Kind) =
        when (kind) {
            Kind.NO_MANIFEST, Kind.UNREADABLE_MANIFEST, Kind.BAD_FIELD, Kind.BAD_VALUE, Kind.BAD_SIGMAS, Kind.BAD_SHAPE ->
                "Das ist kein brauchbares Modell."
            Kind.UNKNOWN_VERSION -> "Dieses Modell ist für eine andere Version der App."
            Kind.FOREIGN_NETWORKS -> "Mit dieser Art von Modell kann die App nicht zeichnen."
            Kind.INCOMPLETE -> "Diesem Modell fehlen Teile, die dieses Telefon braucht."
            Kind.PATH_OUTSIDE, Kind.BAD_ZIP -> "Diese Datei ist nicht sicher."
            Kind.MISSING_FILE, Kind.CHANGED_FILE -> "Dieses Modell ist beschädigt."
            Kind.NO_SPACE -> "Das Telefon ist voll."
            Kind.NO_MEMORY -> "Der Arbeitsspeicher reicht nicht."
            Kind.BAD_INPUT -> "Diese Eingabe geht nicht."
            Kind.NOT_FINITE, Kind.RUNTIME -> "Das Zeichnen ist fehlgeschlagen."
            Kind.NO_BUNDLE -> "Es ist kein Modell da, das importiert werden kann."
        }
}
