package org.edgegen.core.state

import org.edgegen.core.bundle.Copied
import java.io.InputStream

/** A bundle that comes with the app as a zip file; the name changes when the bundle does. */
class Shipped(val name: String, val open: () -> InputStream)

/** Imports what came with the app and was not imported before: a bundle that the user removed does not come back. */
internal fun importShipped(shipped: List<Shipped>, files: AppFiles, copied: Copied) {
    val known = if (files.shipped.exists()) files.shipped.readLines() else emptyList()
    for (bundle in shipped.filter { it.name !in known }) {
        bundle.open().use { files.bundles.importZip(it, copied) }
        files.shipped.appendText(bundle.name + "\n")
    }
}
