package org.edgegen.core.bundle

import org.edgegen.core.Failure
import org.edgegen.core.Kind
import java.io.File

/** A bundle on disk whose manifest was read and, unless [open] was told otherwise, whose files were checked. */
class Bundle private constructor(val root: File, val manifest: Manifest, private val inside: String = "") {
    /** What tells it from other bundles of the app, and from other tiers in its folder. */
    val key: String get() = if (inside.isEmpty()) root.name else "${root.name}/$inside"

    /** The bundle once for each of its tiers, the first first. */
    val tiers: List<Bundle>
        get() = manifest.each.mapIndexed { index, each -> Bundle(root, each, if (index == 0) inside else each.tier) }

    /** "emoji/low-android", with the bits where weights are quantized. */
    val title: String
        get() = "${manifest.model}/${manifest.tier}" + if (manifest.bits < HALF_BITS) ", ${manifest.bits} bit" else ""

    fun artifact(name: String, backend: String): Artifact =
        manifest.components.firstOrNull { it.name == name && it.backend == backend }
            ?: throw Failure(Kind.INCOMPLETE, "$title has no $name for $backend.", EXPORT_AGAIN)

    fun file(part: BundleFile): File = File(root, part.path)

    /** The back end to draw with: the first of [preferred] that is whole. */
    fun backend(preferred: List<String>): String =
        preferred.firstOrNull { it in manifest.wholeBackends }
            ?: throw Failure(Kind.INCOMPLETE, "$title has no whole back end among ${preferred.joinToString()}.",
                "Export it with --backend ${preferred.first()}.")

    companion object {
        private const val HALF_BITS = 16

        /**
         * Reads a bundle. With [check], every file's sha256 is compared with the manifest's.
         *
         * Throws [Failure] of the kinds of [parseManifest], or NO_MANIFEST, PATH_OUTSIDE, MISSING_FILE, CHANGED_FILE.
         */
        fun open(root: File, check: Boolean = true): Bundle {
            val path = File(root, MANIFEST)
            if (!path.isFile) {
                throw Failure(Kind.NO_MANIFEST, "${root.name} has no $MANIFEST: it is no bundle, or an unfinished one.",
                    EXPORT_AGAIN)
            }
            val manifest = parseManifest(path.readText()) { readIndex(root) }
            manifest.files.forEach { requireFile(root, it, check) }
            return Bundle(root, manifest)
        }
    }
}

private fun requireFile(root: File, file: BundleFile, check: Boolean) {
    requireInside(root, file.path)
    val found = File(root, file.path)
    if (!found.exists()) throw Failure(Kind.MISSING_FILE, "${file.path} is missing.", EXPORT_AGAIN)
    if (!check) return
    val digest = digestOf(found)
    if (digest != Digest(file.sha256, file.bytes)) {
        throw Failure(Kind.CHANGED_FILE, "${file.path} has changed: sha256 ${digest.sha256.take(12)}, ${digest.bytes} " +
            "bytes; the manifest says ${file.sha256.take(12)}, ${file.bytes}.", EXPORT_AGAIN)
    }
}
