package org.edgegen.core.draw

/** An 8-bit RGB picture, row by row from the top left. */
class Picture(val width: Int, val height: Int, val rgb: ByteArray) {
    init {
        require(rgb.size == 3 * width * height) { "${rgb.size} bytes are no picture of $width x $height" }
    }

    /** The pixels as 0xAARRGGBB, opaque, as bitmaps of Android and Compose take them. */
    fun argb(): IntArray =
        IntArray(width * height) {
            (0xff shl 24) or (channel(3 * it) shl 16) or (channel(3 * it + 1) shl 8) or channel(3 * it + 2)
        }

    private fun channel(index: Int) = rgb[index].toInt() and 0xff

    companion object {
        /** Of values (1, 3, H, W) in [0, 1]: cut, scaled in float32 and rounded, halves to even. */
        fun of(values: FloatArray, width: Int, height: Int): Picture {
            val plane = width * height
            return Picture(width, height, ByteArray(3 * plane) { pixel(values[it % 3 * plane + it / 3]) })
        }

        private fun pixel(value: Float): Byte = Math.rint((value.coerceIn(0f, 1f) * 255f).toDouble()).toInt().toByte()
    }
}
