package org.edgegen.core.device

import org.edgegen.core.bench.ProcessMemory

/** What a record says of the machine; [device] is edgegen's name of it where it has one, such as "pixel8". */
data class Machine(
    val device: String,
    val processor: String,
    val cores: Int,
    val memoryBytes: Long?,
    val system: String,
    val model: String? = null,
    val soc: String? = null,
    val build: String? = null,
    val load1min: Double? = null,
)

/** What may slow a phone down; null where the system does not tell. [thermal] is Android's word, such as "light". */
data class Conditions(val charging: Boolean?, val battery: Double?, val powerSave: Boolean?, val thermal: String?)

/** Memory that the system can give, and how much of it it keeps for itself before it closes apps. */
data class FreeMemory(val availableBytes: Long, val thresholdBytes: Long, val totalBytes: Long)

/** What only the system knows. */
interface Phone : ProcessMemory {
    fun machine(): Machine

    fun conditions(): Conditions

    /** Null where the system does not tell. */
    fun freeMemory(): FreeMemory?
}
