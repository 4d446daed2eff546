package org.edgegen.app

import android.app.Application
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import org.edgegen.core.state.BenchStarter
import org.edgegen.core.state.DrawModel
import org.edgegen.core.state.Shipped

/** Holds the model, so that it outlives activities; the bench's process makes none. */
class EdgegenApplication : Application() {
    val model: DrawModel by lazy {
        val scope = CoroutineScope(SupervisorJob() + Dispatchers.Main.immediate)
        DrawModel(
            appFiles(this), engines(), AndroidPhone(this, predictions(this)), scope, Dispatchers.IO,
            predictions = predictions(this),
            bench = BenchStarter { bundle, _ -> BenchService.start(this, bundle.key) },
            shipped = assets.list(BUNDLES).orEmpty().map { folder -> Shipped(folder) { path -> assets.open("$BUNDLES/$folder/$path") } },
        ).apply { start() }
    }
}
