package org.edgegen.ui

import androidx.compose.foundation.Image
import androidx.compose.foundation.background
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.aspectRatio
import androidx.compose.foundation.layout.fillMaxHeight
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.height
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.remember
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.FilterQuality
import androidx.compose.ui.semantics.LiveRegionMode
import androidx.compose.ui.semantics.ProgressBarRangeInfo
import androidx.compose.ui.semantics.liveRegion
import androidx.compose.ui.semantics.progressBarRangeInfo
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import org.edgegen.core.draw.Picture
import org.edgegen.core.state.Activity
import org.edgegen.core.state.DrawState
import org.edgegen.core.state.Result
import org.edgegen.core.state.fileName
import org.edgegen.core.state.png

/** What is being drawn, with its steps, or else what was drawn last. */
@Composable
internal fun PicturePanel(state: DrawState, host: Host, modifier: Modifier) {
    Column(modifier, verticalArrangement = Arrangement.spacedBy(8.dp)) {
        val activity = state.activity
        if (activity is Activity.Drawing) {
            Progress(activity.step, activity.count)
            activity.preview?.let { Drawn(it, LocalStrings.current.preview, host) }
        } else {
            state.result?.let { Finished(it, host) }
        }
    }
}

@Composable
private fun Progress(done: Int, of: Int) {
    Text(LocalStrings.current.step(done, of), Modifier.semantics { liveRegion = LiveRegionMode.Polite })
    val range = ProgressBarRangeInfo(done.toFloat(), 0f..of.toFloat(), of)
    val colors = MaterialTheme.colorScheme
    val whole = Modifier.fillMaxWidth().height(6.dp).background(colors.surfaceVariant)
    Box(whole.semantics { progressBarRangeInfo = range }) {
        Box(Modifier.fillMaxWidth(done.toFloat() / of).fillMaxHeight().background(colors.primary))
    }
}

@Composable
private fun Finished(result: Result, host: Host) {
    val strings = LocalStrings.current
    Drawn(result.picture, strings.pictureOf(result.parameters.prompt), host)
    Text(strings.drawnIn(result.parameters.seconds, result.parameters.seed))
    if (result.parameters.truncated) Text(strings.truncated)
    Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        OutlinedButton(onClick = { host.save(result.png(), result.fileName()) }) { Text(strings.save) }
        OutlinedButton(onClick = { host.share(result.png(), result.fileName()) }) { Text(strings.share) }
    }
}

@Composable
private fun Drawn(picture: Picture, description: String, host: Host) {
    val bitmap = remember(picture) { host.bitmap(picture) }
    val ratio = picture.width.toFloat() / picture.height
    Image(bitmap, description, Modifier.fillMaxWidth().aspectRatio(ratio), filterQuality = FilterQuality.High)
}
