package org.edgegen.core.noise

private val LN2_HIGH = Float.fromBits(0x3f317180) // few bits, so that a whole multiple of it is exact
private val LN2_LOW = Float.fromBits(0x3717f7d1)
private val SERIES =
    intArrayOf(0x3f2aaaab, 0x3ecccccd, 0x3e924925, 0x3e638e29, 0x3e3a3325, 0x3e1cd04f, 0x3e178897)
        .map(Float.Companion::fromBits)
private val NO_REDUCTION = Float.fromBits(0xbe95f61f.toInt()) // sqrt(2) / 2 - 1
private const val SQRT2_FRACTION = 0x3504f7

/**
 * log(1 + x) for x in (-1, 0], in float32 with the roundings of fdlibm, Sun's mathematics library, which glibc took its
 * own from.
 *
 * NumPy draws the tail of its normals with the C library's function, which is not correctly rounded for 7 % of these x;
 * an equally good logarithm would give other noise for a seed. Equal to glibc 2.36 for every x = -i / 2^24.
 */
internal fun log1p(x: Float): Float {
    if (x > NO_REDUCTION) return x - (half(x) - correction(x))
    val sum = 1f + x
    val lost = (x - (sum - 1f)) / sum // what rounding the sum took away
    val fraction = sum.toRawBits() and 0x7fffff
    val isSmall = fraction < SQRT2_FRACTION
    val exponent = (sum.toRawBits() ushr 23) - 127 + if (isSmall) 0 else 1
    val rest = Float.fromBits(fraction or if (isSmall) 0x3f800000 else 0x3f000000) - 1f // 1 + rest in [0.7, 1.4]
    val small = exponent * LN2_LOW + lost
    if (rest == 0f) return exponent * LN2_HIGH + small
    return exponent * LN2_HIGH - ((half(rest) - (correction(rest) + small)) - rest)
}

private fun half(f: Float) = 0.5f * f * f

/** What f - f^2 / 2 lacks of log(1 + f): a series in s = f / (2 + f). */
private fun correction(f: Float): Float {
    val s = f / (2f + f)
    val square = s * s
    val series = SERIES.foldRight(0f) { coefficient, sum -> square * (coefficient + sum) }
    return s * (half(f) + series)
}
