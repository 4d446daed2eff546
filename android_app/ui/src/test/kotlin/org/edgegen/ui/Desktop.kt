package org.edgegen.ui

import androidx.compose.ui.graphics.ImageBitmap
import androidx.compose.ui.graphics.toComposeImageBitmap
import org.edgegen.core.draw.Picture
import java.awt.image.BufferedImage
import java.io.File
import javax.imageio.ImageIO

/** The system around the screen on a desktop; remembers what was asked of it. */
class DesktopHost(private val pick: () -> Unit = {}) : Host {
    val saved = mutableMapOf<String, ByteArray>()
    val shared = mutableMapOf<String, ByteArray>()

    override fun bitmap(picture: Picture): ImageBitmap {
        val image = BufferedImage(picture.width, picture.height, BufferedImage.TYPE_INT_ARGB)
        image.setRGB(0, 0, picture.width, picture.height, picture.argb(), 0, picture.width)
        return image.toComposeImageBitmap()
    }

    override fun bitmap(file: File): ImageBitmap? = ImageIO.read(file)?.toComposeImageBitmap()

    override fun pickBundle() = pick()

    override fun save(png: ByteArray, name: String) {
        saved[name] = png
    }

    override fun share(png: ByteArray, name: String) {
        shared[name] = png
    }
}
