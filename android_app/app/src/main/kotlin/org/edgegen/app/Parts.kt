package org.edgegen.app

import android.content.Context
import org.edgegen.core.device.LinuxMachine
import org.edgegen.core.device.Predictions
import org.edgegen.core.draw.Engine
import org.edgegen.core.state.AppFiles
import org.edgegen.executorch.EXECUTORCH
import org.edgegen.executorch.ExecutorchEngine
import org.edgegen.onnx.ONNX
import org.edgegen.onnx.OnnxEngine
import java.io.FileNotFoundException

/** The folder of bundles among the assets. */
const val BUNDLES = "bundles"

private const val PREDICTIONS = "predictions.json"

/** The app's files; adb reaches the shared ones under /sdcard/Android/data/org.edgegen.app/files. */
internal fun appFiles(context: Context): AppFiles {
    val shared = context.getExternalFilesDir(null) ?: context.filesDir // null while no storage is mounted
    return AppFiles(context.filesDir, shared).apply { inbox.mkdirs() }
}

/**
 * The back ends, the preferred first. ExecuTorch's library is said to end with SIGILL on ARMv8.0 processors, which have
 * no atomics of ARMv8.1: those stay with ONNX.
 */
internal fun engines(): Map<String, Engine> {
    val onnx = mapOf<String, Engine>(ONNX to OnnxEngine())
    return if (LinuxMachine().hasAtomics()) onnx + (EXECUTORCH to ExecutorchEngine()) else onnx
}

/** What edgegen predicted when it wrote this project; none where it wrote nothing. */
internal fun predictions(context: Context): Predictions =
    try {
        Predictions.parse(context.assets.open(PREDICTIONS).use { it.readBytes().decodeToString() })
    } catch (_: FileNotFoundException) {
        Predictions.NONE
    }

/** The app's version and those of what runs networks, for records. */
internal fun versions(context: Context): Map<String, String> {
    val version = context.packageManager.getPackageInfo(context.packageName, 0).versionName.orEmpty()
    return mapOf("app" to version, "onnxruntime" to OnnxEngine.version)
}

/** A service of the system that every phone has. */
internal fun <T : Any> service(context: Context, type: Class<T>): T =
    checkNotNull(context.getSystemService(type)) { "this system has no ${type.simpleName}" }
