package org.edgegen.core.noise

/** NumPy's PCG64: a 128-bit linear congruential generator whose output is the xor of its halves, rotated. */
internal class Pcg64(seed: Long) {
    private var high = 0L
    private var low = 0L
    private val incrementHigh: Long
    private val incrementLow: Long
    private var spare: Int? = null // the upper half of the last 64 bits

    init {
        val (stateHigh, stateLow, streamHigh, streamLow) = SeedSequence(seed).words(4).toList()
        incrementHigh = (streamHigh shl 1) or (streamLow ushr 63)
        incrementLow = (streamLow shl 1) or 1
        step()
        add(stateHigh, stateLow)
        step()
    }

    /** 32 random bits. */
    fun nextInt(): Int {
        spare?.let {
            spare = null
            return it
        }
        val bits = nextLong()
        spare = (bits ushr 32).toInt()
        return bits.toInt()
    }

    /** A float32 in [0, 1) of 24 random bits. */
    fun nextFloat(): Float = (nextInt() ushr 8) * (1f / (1 shl 24))

    private fun nextLong(): Long {
        step()
        return java.lang.Long.rotateRight(high xor low, (high ushr 58).toInt())
    }

    private fun step() {
        val productHigh = multiplyHigh(low, MULTIPLIER_LOW) + high * MULTIPLIER_LOW + low * MULTIPLIER_HIGH
        low *= MULTIPLIER_LOW
        high = productHigh
        add(incrementHigh, incrementLow)
    }

    private fun add(addedHigh: Long, addedLow: Long) {
        low += addedLow
        val carry = if (low.toULong() < addedLow.toULong()) 1 else 0
        high += addedHigh + carry
    }

    private companion object {
        const val MULTIPLIER_HIGH = 2549297995355413924L
        const val MULTIPLIER_LOW = 4865540595714422341L
    }
}

/** The upper 64 bits of an unsigned product; the library's own is not on Android 8. */
internal fun multiplyHigh(a: Long, b: Long): Long {
    val (aHigh, aLow) = (a ushr 32) to (a and 0xffffffffL)
    val (bHigh, bLow) = (b ushr 32) to (b and 0xffffffffL)
    val middle = aHigh * bLow + ((aLow * bLow) ushr 32)
    val other = aLow * bHigh + (middle and 0xffffffffL)
    return aHigh * bHigh + (middle ushr 32) + (other ushr 32)
}
