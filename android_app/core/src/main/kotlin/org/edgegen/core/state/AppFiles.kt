package org.edgegen.core.state

import org.edgegen.core.bench.BenchStatus
import org.edgegen.core.bench.Records
import org.edgegen.core.bundle.BundleStore
import org.edgegen.core.picture.History
import java.io.File

/**
 * The folders and files of an app: [root] is its own; [shared] is where adb reaches, for bundles that are pushed into
 * `inbox`, for the records and for the status of a bench.
 */
class AppFiles(root: File, shared: File = root) {
    val inbox = File(shared, "inbox")
    val bundles = BundleStore(File(root, "bundles"))
    val history = History(File(root, "history"))
    val settings = SettingsFile(File(root, "settings.json"))
    val shipped = File(root, "shipped.txt")
    val records = Records(File(shared, RECORDS))
    val benchStatus = File(shared, BenchStatus.FILE)

    /** Bundles that were left in the inbox. */
    fun waiting(): List<File> = inbox.listFiles { file: File -> file.isDirectory }.orEmpty().sortedBy { it.name }

    companion object {
        const val RECORDS = "measurements.jsonl"
    }
}
