package org.edgegen.core.noise

private const val RIGHT = 3.6541528853610088 // where the tail begins
private const val AREA = 0.00492867323397465524494 // of every strip
private const val SCALE = (1 shl 23).toDouble()
private const val STRIPS = 256
private const val RIGHT_INVERSE = 0.27366123732975828f

/**
 * Standard normal float32 values, the same as `numpy.random.Generator(PCG64(seed)).standard_normal(n, float32)`.
 *
 * The ziggurat of Marsaglia and Tsang with 256 strips, as NumPy has it.
 */
class Noise(seed: Long) {
    private val bits = Pcg64(seed)

    /** The next [count] values. */
    fun normal(count: Int): FloatArray = FloatArray(count) { next() }

    private fun next(): Float {
        while (true) {
            val word = bits.nextInt()
            val strip = word and 0xff
            val place = (word ushr 9) and 0x7fffff
            val magnitude = place * Ziggurat.widths[strip]
            val value = if ((word ushr 8) and 1 == 1) -magnitude else magnitude
            if (place < Ziggurat.limits[strip]) return value
            if (strip == 0) return tail(negative = (place ushr 8) and 1 == 1)
            if (isBelowCurve(strip, value)) return value
        }
    }

    private fun isBelowCurve(strip: Int, value: Float): Boolean {
        val height = (Ziggurat.heights[strip - 1] - Ziggurat.heights[strip]) * bits.nextFloat() + Ziggurat.heights[strip]
        return height < StrictMath.exp(-0.5 * value.toDouble() * value.toDouble()).toFloat()
    }

    private fun tail(negative: Boolean): Float {
        while (true) {
            val x = -RIGHT_INVERSE * logOfRest()
            val y = -logOfRest()
            if (y + y > x * x) return if (negative) -(RIGHT.toFloat() + x) else RIGHT.toFloat() + x
        }
    }

    private fun logOfRest(): Float = log1p(-bits.nextFloat())
}

/** The strips: how wide one unit of place is, up to which place a value is accepted at once, and the curve's height. */
private object Ziggurat {
    val limits = IntArray(STRIPS)
    val widths = FloatArray(STRIPS)
    val heights = FloatArray(STRIPS)

    init {
        val edges = edges()
        limits[0] = (edges[STRIPS - 1] / edges[STRIPS] * SCALE).toInt()
        widths[0] = (edges[STRIPS] / SCALE).toFloat()
        heights[0] = 1f
        for (i in 1 until STRIPS) {
            limits[i] = if (i == 1) 0 else (edges[i - 1] / edges[i] * SCALE).toInt()
            widths[i] = (edges[i] / SCALE).toFloat()
            heights[i] = curve(edges[i]).toFloat()
        }
    }

    /** The right edges of the strips, from the tail up. */
    private fun edges(): DoubleArray {
        val edges = DoubleArray(STRIPS + 1)
        edges[STRIPS] = AREA / curve(RIGHT)
        edges[STRIPS - 1] = RIGHT
        for (i in STRIPS - 2 downTo 1) edges[i] = StrictMath.sqrt(-2 * StrictMath.log(AREA / edges[i + 1] + curve(edges[i + 1])))
        return edges
    }

    private fun curve(x: Double) = StrictMath.exp(-0.5 * x * x)
}
