package org.edgegen.ui

import androidx.compose.ui.graphics.ImageBitmap
import org.edgegen.core.draw.Picture
import java.io.File

/** What only the system around the screen can do. */
interface Host {
    fun bitmap(picture: Picture): ImageBitmap

    /** Null where the file is no picture. */
    fun bitmap(file: File): ImageBitmap?

    /** Lets the user choose a zip file with a bundle, which is then imported. */
    fun pickBundle()

    fun save(png: ByteArray, name: String)

    fun share(png: ByteArray, name: String)
}
