package org.edgegen.core.device

import java.io.File
import java.io.IOException

/** What Linux tells of a machine and of this process, on a desktop and on Android. */
class LinuxMachine(private val root: File = File("/proc")) : Phone {
    override fun machine(): Machine =
        Machine(
            device = "desktop",
            processor = cpuField("model name") ?: System.getProperty("os.arch").orEmpty(),
            cores = Runtime.getRuntime().availableProcessors(),
            memoryBytes = freeMemory()?.totalBytes,
            system = "${System.getProperty("os.name")} ${System.getProperty("os.version")}, Java ${System.getProperty("java.version")}",
            load1min = read("loadavg").substringBefore(' ').toDoubleOrNull(),
        )

    override fun conditions() = Conditions(charging = null, battery = null, powerSave = null, thermal = null)

    override fun freeMemory(): FreeMemory? {
        val fields = kilobytes("meminfo")
        return FreeMemory(fields["MemAvailable"] ?: return null, 0, fields["MemTotal"] ?: return null)
    }

    override fun currentBytes(): Long = kilobytes("self/status")["VmRSS"] ?: 0

    override fun peakBytes(): Long = kilobytes("self/status")["VmHWM"] ?: 0

    override fun resetPeak(): Boolean =
        try {
            File(root, "self/clear_refs").writeText(PEAK_ALONE)
            true
        } catch (_: IOException) {
            false
        }

    /** Whether the processor has the atomics of ARMv8.1, or is no ARM at all. */
    fun hasAtomics(): Boolean = cpuField("Features")?.split(' ')?.contains("atomics") ?: true

    private fun cpuField(name: String): String? =
        read("cpuinfo").lineSequence().firstOrNull { it.substringBefore(':').trim() == name }?.substringAfter(':')?.trim()

    /** Bytes by name of a file whose lines are "Name:  123 kB". */
    private fun kilobytes(path: String): Map<String, Long> =
        read(path).lineSequence().filter { it.endsWith(" kB") }.associate { line ->
            line.substringBefore(':') to (line.substringAfter(':').removeSuffix(" kB").trim().toLongOrNull() ?: 0) * 1024
        }

    private fun read(path: String): String = File(root, path).takeIf { it.canRead() }?.readText().orEmpty()

    private companion object {
        const val PEAK_ALONE = "5" // of what Linux can clear of a process
    }
}
