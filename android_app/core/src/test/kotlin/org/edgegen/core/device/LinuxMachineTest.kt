package org.edgegen.core.device

import org.edgegen.core.bundle.write
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertNull
import kotlin.test.assertTrue

class LinuxMachineTest {
    @TempDir
    lateinit var proc: File

    @Test
    fun `a phone without atomics is told`() {
        write(proc, mapOf("cpuinfo" to "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"))
        assertFalse(LinuxMachine(proc).hasAtomics())
        write(proc, mapOf("cpuinfo" to "processor\t: 0\nFeatures\t: fp asimd atomics fphp\n"))
        assertTrue(LinuxMachine(proc).hasAtomics())
    }

    @Test
    fun `memory is read in bytes, and what is not told is null`() {
        assertNull(LinuxMachine(proc).freeMemory())
        write(proc, mapOf("meminfo" to "MemTotal:       2000 kB\nMemAvailable:    500 kB\nHugePages_Total:       0\n"))
        assertEquals(FreeMemory(512_000, 0, 2_048_000), LinuxMachine(proc).freeMemory())
        write(proc, mapOf("self/status" to "VmHWM:\t     30 kB\nVmRSS:\t     20 kB\n"))
        assertEquals(30 * 1024L to 20 * 1024L, LinuxMachine(proc).peakBytes() to LinuxMachine(proc).currentBytes())
    }

    @Test
    fun `the peak can begin anew`() {
        val machine = LinuxMachine()
        ByteArray(64 shl 20).fill(1)
        val before = machine.peakBytes()
        if (machine.resetPeak()) assertTrue(machine.peakBytes() <= before)
        assertFalse(LinuxMachine(File(proc, "nothing")).resetPeak())
    }

    @Test
    fun `this machine has a processor and memory`() {
        val machine = LinuxMachine().machine()
        assertTrue(machine.processor.isNotBlank() && machine.cores > 0 && machine.memoryBytes!! > 0)
        assertTrue(LinuxMachine().peakBytes() > 1 shl 20 && LinuxMachine().currentBytes() > 1 shl 20)
    }
}
