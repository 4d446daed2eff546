package org.edgegen.core.bundle

import java.io.ByteArrayInputStream
import java.io.File
import java.io.InputStream

/** Imports the small bundle into the folder given, says "stalled" when most of it was read, and hangs there. */
fun main(arguments: Array<String>) {
    val bytes = zipOf(bundleFiles())
    BundleStore(File(arguments.single())).importZip(StallingStream(bytes, bytes.size * 3 / 4))
}

private class StallingStream(bytes: ByteArray, private var left: Int) : InputStream() {
    private val inner = ByteArrayInputStream(bytes)

    override fun read(): Int {
        if (left-- == 0) {
            println("stalled")
            Thread.sleep(Long.MAX_VALUE)
        }
        return inner.read()
    }
}
