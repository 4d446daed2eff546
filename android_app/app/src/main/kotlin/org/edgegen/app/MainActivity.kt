package org.edgegen.app

import android.os.Bundle
import androidx.activity.ComponentActivity
import androidx.activity.compose.setContent
import androidx.activity.enableEdgeToEdge
import androidx.compose.foundation.layout.safeDrawingPadding
import androidx.compose.ui.Modifier
import org.edgegen.ui.EdgegenScreen

/** Shows the screen over the application's model; a rotation makes another activity over the same model. */
class MainActivity : ComponentActivity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        enableEdgeToEdge()
        super.onCreate(savedInstanceState)
        val model = (application as EdgegenApplication).model
        val host = AndroidHost(this, model)
        setContent { EdgegenScreen(model, host, Modifier.safeDrawingPadding()) }
    }

    override fun onResume() {
        super.onResume()
        BenchWatcher.watch(this)
    }
}
