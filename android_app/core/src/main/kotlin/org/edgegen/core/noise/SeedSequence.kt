package org.edgegen.core.noise

private const val INIT_A = 0x43b0d7e5
private const val MULTIPLY_A = 0x931e8875.toInt()
private const val INIT_B = 0x8b51f9dd.toInt()
private const val MULTIPLY_B = 0x58f38ded
private const val MIX_LEFT = 0xca01f9dd.toInt()
private const val MIX_RIGHT = 0x4973f715
private const val POOL = 4

/** NumPy's SeedSequence for one non-negative seed: how a small number becomes the state of a generator. */
internal class SeedSequence(seed: Long) {
    private var hash = INIT_A
    private val pool: IntArray

    init {
        require(seed >= 0) { "seed $seed is below 0" }
        val entropy = intArrayOf(seed.toInt(), (seed ushr 32).toInt())
        pool = IntArray(POOL) { hashed(entropy.getOrElse(it) { 0 }) }
        for (source in 0 until POOL) {
            for (target in 0 until POOL) {
                if (source != target) pool[target] = mixed(pool[target], hashed(pool[source]))
            }
        }
    }

    /** The first [count] 64-bit words. */
    fun words(count: Int): LongArray {
        var multiplier = INIT_B
        val halves =
            IntArray(2 * count) {
                var value = pool[it % POOL] xor multiplier
                multiplier *= MULTIPLY_B
                value *= multiplier
                value xor (value ushr 16)
            }
        return LongArray(count) { unsigned(halves[2 * it]) or (unsigned(halves[2 * it + 1]) shl 32) }
    }

    private fun hashed(value: Int): Int {
        var result = value xor hash
        hash *= MULTIPLY_A
        result *= hash
        return result xor (result ushr 16)
    }

    private fun mixed(x: Int, y: Int): Int {
        val result = MIX_LEFT * x - MIX_RIGHT * y
        return result xor (result ushr 16)
    }

    private fun unsigned(value: Int) = value.toLong() and 0xffffffffL
}
