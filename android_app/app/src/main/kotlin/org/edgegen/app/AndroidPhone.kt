package org.edgegen.app

import android.app.ActivityManager
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import org.edgegen.core.bench.ProcessMemory
import org.edgegen.core.device.Conditions
import org.edgegen.core.device.FreeMemory
import org.edgegen.core.device.LinuxMachine
import org.edgegen.core.device.Machine
import org.edgegen.core.device.Phone
import org.edgegen.core.device.Predictions

/** What Android tells of this phone. */
internal class AndroidPhone(
    private val context: Context,
    private val predictions: Predictions,
    private val linux: LinuxMachine = LinuxMachine(),
) : Phone, ProcessMemory by linux {
    private val power = service(context, PowerManager::class.java)

    override fun machine(): Machine {
        val model = "${Build.MANUFACTURER} ${Build.MODEL}"
        val soc = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S) "${Build.SOC_MANUFACTURER} ${Build.SOC_MODEL}" else Build.HARDWARE
        return linux.machine().copy(
            device = predictions.deviceName(model) ?: model,
            processor = soc,
            memoryBytes = freeMemory().totalBytes,
            system = "Android ${Build.VERSION.RELEASE}",
            model = model,
            soc = soc,
            build = Build.DISPLAY,
        )
    }

    override fun conditions(): Conditions {
        val battery = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
        return Conditions(
            charging = battery?.let { it.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) != 0 },
            battery = battery?.let(::level),
            powerSave = power.isPowerSaveMode,
            thermal = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) thermalWord(power.currentThermalStatus) else null,
        )
    }

    override fun freeMemory(): FreeMemory {
        val info = ActivityManager.MemoryInfo()
        service(context, ActivityManager::class.java).getMemoryInfo(info)
        return FreeMemory(info.availMem, info.threshold, info.totalMem)
    }

    private fun level(battery: Intent): Double? {
        val (level, scale) = battery.getIntExtra(BatteryManager.EXTRA_LEVEL, -1) to battery.getIntExtra(BatteryManager.EXTRA_SCALE, -1)
        return if (level >= 0 && scale > 0) level.toDouble() / scale else null
    }

    private fun thermalWord(status: Int): String =
        listOf("none", "light", "moderate", "severe", "critical", "emergency", "shutdown").getOrElse(status) { "unknown" }
}
