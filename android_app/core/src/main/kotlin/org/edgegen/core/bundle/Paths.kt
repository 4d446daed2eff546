package org.edgegen.core.bundle

import org.edgegen.core.Failure
import org.edgegen.core.Kind
import java.io.File

/** Whether a path is relative, names something and never climbs, on any system. */
fun staysInside(path: String): Boolean {
    val parts = path.replace('\\', '/').split('/')
    val named = parts.filter { it.isNotEmpty() && it != "." }
    return named.isNotEmpty() && parts.first().isNotEmpty() && ".." !in parts && ':' !in parts.first() && '\u0000' !in path
}

/** Refuses a path of the manifest that is absolute, climbs, or leads out of [root] through a link. */
internal fun requireInside(root: File, path: String) {
    val inside = root.canonicalFile.toPath()
    val found = File(root, path)
    if (!staysInside(path) || found.walkTopDown().any { !it.canonicalFile.toPath().startsWith(inside) }) {
        throw Failure(Kind.PATH_OUTSIDE, "$MANIFEST: \"$path\" points outside the bundle.", "Do not use this bundle.")
    }
}
