package org.edgegen.core.state

import org.edgegen.core.bundle.Copied
import org.edgegen.core.bundle.MANIFEST
import org.edgegen.core.bundle.digestOf
import java.io.InputStream

/** A bundle that comes with the app: [open] gives a file of it by its path. */
class Shipped(private val folder: String, val open: (String) -> InputStream) {
    /** The folder and the manifest's sha256: another bundle under the same name is another one. */
    val name: String by lazy { "$folder ${open(MANIFEST).use(::digestOf).sha256}" }
}

/** Imports what came with the app and was not imported before: a bundle that the user removed does not come back. */
internal fun importShipped(shipped: List<Shipped>, files: AppFiles, copied: Copied) {
    val known = if (files.shipped.exists()) files.shipped.readLines() else emptyList()
    for (bundle in shipped.filter { it.name !in known }) {
        files.bundles.importFiles(copied, bundle.open)
        files.shipped.appendText(bundle.name + "\n")
    }
}
