/*
 * The signatures of ExecuTorch's Android library that executorch/ calls, without anything behind them: the library comes
 * as an AAR whose code is for phones, and the compiler here needs only to know what there is to call. Never shipped.
 */
@file:Suppress("UNUSED_PARAMETER", "unused")

package org.pytorch.executorch

private fun onPhonesOnly(): Nothing = throw UnsupportedOperationException("ExecuTorch runs on phones only")

class Module private constructor() {
    fun loadMethod(name: String): Unit = onPhonesOnly()

    fun forward(vararg inputs: EValue): Array<EValue> = onPhonesOnly()

    fun destroy(): Unit = onPhonesOnly()

    companion object {
        const val LOAD_MODE_MMAP = 1

        @JvmStatic
        fun load(path: String, mode: Int, threads: Int): Module = onPhonesOnly()
    }
}

class EValue private constructor() {
    fun toTensor(): Tensor = onPhonesOnly()

    companion object {
        @JvmStatic
        fun from(tensor: Tensor): EValue = onPhonesOnly()
    }
}

class Tensor private constructor() {
    val dataAsFloatArray: FloatArray get() = onPhonesOnly()

    fun shape(): LongArray = onPhonesOnly()

    companion object {
        @JvmStatic
        fun fromBlob(values: FloatArray, shape: LongArray): Tensor = onPhonesOnly()

        @JvmStatic
        fun fromBlob(values: IntArray, shape: LongArray): Tensor = onPhonesOnly()
    }
}
