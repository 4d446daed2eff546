package org.edgegen.core.state

import org.edgegen.core.bench.Records
import org.edgegen.core.bundle.BundleStore
import org.edgegen.core.picture.History
import java.io.File

/** The folders and files of an app: [root] is its own, `inbox` is where `adb push` may leave bundles. */
class AppFiles(root: File, val inbox: File = File(root, "inbox")) {
    val bundles = BundleStore(File(root, "bundles"))
    val history = History(File(root, "history"))
    val settings = SettingsFile(File(root, "settings.json"))
    val records = Records(File(root, RECORDS))

    /** Bundles that were left in the inbox. */
    fun waiting(): List<File> = inbox.listFiles { file: File -> file.isDirectory }.orEmpty().sortedBy { it.name }

    companion object {
        const val RECORDS = "measurements.jsonl"
    }
}
