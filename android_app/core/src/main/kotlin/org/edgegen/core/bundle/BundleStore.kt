package org.edgegen.core.bundle

import org.edgegen.core.Failure
import org.edgegen.core.Kind
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.util.UUID

/** Bytes copied so far. */
typealias Copied = (Long) -> Unit

/**
 * The bundles an app keeps, each in a folder of [root].
 *
 * A bundle is copied into a folder whose name begins with a dot, checked there against the sha256 of its manifest, and
 * renamed when it is whole: an import that fails or is killed leaves nothing that [list] would show.
 */
class BundleStore(private val root: File, private val freeBytes: (File) -> Long = File::getUsableSpace) {
    init {
        root.mkdirs()
    }

    /** The bundles here whose manifests can be read, by name, each tier on its own; what is broken is passed over. */
    fun list(): List<Bundle> =
        folders().filterNot { it.name.startsWith(".") }.sortedBy { it.name }.mapNotNull(::openQuietly).flatMap { it.tiers }

    private fun folders(): List<File> = root.listFiles { file: File -> file.isDirectory }.orEmpty().toList()

    private fun openQuietly(folder: File): Bundle? =
        try {
            Bundle.open(folder, check = false)
        } catch (_: Failure) {
            null
        }

    /** Copies a bundle's folder in, such as one that `adb push` left. Throws [Failure]; nothing is then imported. */
    fun importFolder(source: File, copied: Copied = {}): Bundle {
        val outside = Bundle.open(source, check = false)
        requireSpace(outside.manifest.files.sumOf { it.bytes })
        return import { staging -> copyBundle(outside, staging, copied) }
    }

    /** Unpacks a zip file with one bundle, at its top or in one folder. Throws [Failure]; nothing is then imported. */
    fun importZip(source: InputStream, copied: Copied = {}): Bundle =
        import { staging -> unzip(source, staging, { requireSpace(it) }, copied) }

    /** Copies what the manifest lists in, by path, such as from an app's assets. Throws [Failure]; nothing is then imported. */
    fun importFiles(copied: Copied = {}, open: (String) -> InputStream): Bundle {
        val text = open(MANIFEST).use { it.readBytes().decodeToString() }
        val manifest = parseManifest(text)
        requireSpace(manifest.files.sumOf { it.bytes })
        return import { staging -> copyFiles(manifest, text, staging, copied, open) }
    }

    /** Removes a bundle with all its tiers: the manifest first, so that what is left never looks whole. */
    fun remove(bundle: Bundle) {
        require(bundle.root.parentFile == root) { "${bundle.root} is not of this store" }
        removeFolder(bundle.root)
    }

    /** Removes what interrupted imports left, and puts a bundle back that was being replaced; call it at the start. */
    fun cleanUp() {
        for (folder in folders()) {
            val target = File(root, folder.name.removePrefix(REPLACED))
            when {
                folder.name.startsWith(REPLACED) && !target.exists() -> folder.renameTo(target)
                folder.name.startsWith(".") -> removeFolder(folder)
            }
        }
    }

    private fun import(fill: (File) -> Unit): Bundle {
        val staging = File(root, "$STAGING${UUID.randomUUID()}")
        try {
            if (!staging.mkdirs()) throw IOException("cannot make ${staging.name}")
            fill(staging)
            val bundle = Bundle.open(bundleFolder(staging), check = true)
            syncAll(bundle.root)
            return putInPlace(bundle)
        } catch (error: IOException) {
            val kind = if (freeBytes(root) < RESERVE) Kind.NO_SPACE else Kind.RUNTIME
            throw Failure(kind, "The bundle could not be copied: ${error.message}.", "Free some space and try again.", error)
        } finally {
            removeFolder(staging)
        }
    }

    /** The folder with the manifest: the staging folder, or the only one in it. */
    private fun bundleFolder(staging: File): File {
        val single = staging.listFiles()?.singleOrNull { it.isDirectory }
        return if (!File(staging, MANIFEST).exists() && single != null) single else staging
    }

    private fun putInPlace(bundle: Bundle): Bundle {
        val target = File(root, folderName(bundle.manifest))
        val replaced = File(root, REPLACED + target.name)
        removeFolder(replaced)
        if (target.exists() && !target.renameTo(replaced)) throw IOException("cannot replace ${target.name}")
        if (!bundle.root.renameTo(target)) {
            replaced.renameTo(target)
            throw IOException("cannot rename to ${target.name}")
        }
        removeFolder(replaced)
        return Bundle.open(target, check = false)
    }

    private fun requireSpace(bytes: Long) {
        val free = freeBytes(root)
        if (bytes + RESERVE > free) {
            throw Failure(Kind.NO_SPACE, "The bundle takes ${megabytes(bytes)} MB, ${megabytes(free)} MB are free and " +
                "${megabytes(RESERVE)} MB of them are kept.", "Free some space.")
        }
    }

    private companion object {
        const val STAGING = ".importing-"
        const val REPLACED = ".replaced-"
        const val RESERVE = 32L shl 20
    }
}

/** A folder's name made of what a manifest says, whatever it says. */
internal fun folderName(manifest: Manifest): String {
    val words = listOf(manifest.model, manifest.tier, "%.3f".format(java.util.Locale.ROOT, manifest.bits))
    return words.joinToString("-").replace(Regex("[^A-Za-z0-9.-]+"), "_").trimStart('.').take(80)
}

private fun megabytes(bytes: Long) = bytes / 1_000_000
