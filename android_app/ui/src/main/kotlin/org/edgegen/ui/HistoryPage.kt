package org.edgegen.ui

import androidx.compose.foundation.Image
import androidx.compose.foundation.clickable
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.aspectRatio
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.lazy.grid.GridCells
import androidx.compose.foundation.lazy.grid.LazyVerticalGrid
import androidx.compose.foundation.lazy.grid.items
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.remember
import androidx.compose.ui.Modifier
import androidx.compose.ui.text.style.TextOverflow
import androidx.compose.ui.unit.dp
import org.edgegen.core.picture.Entry
import org.edgegen.core.state.DrawModel
import org.edgegen.core.state.DrawState

/** The pictures that were kept; a tap takes one's prompt and seed. */
@Composable
internal fun HistoryPage(state: DrawState, model: DrawModel, host: Host, modifier: Modifier, toDraw: () -> Unit) {
    Column(modifier, verticalArrangement = Arrangement.spacedBy(8.dp)) {
        HistorySettings(state, model)
        if (state.history.isEmpty()) Text(LocalStrings.current.noPictures)
        LazyVerticalGrid(
            GridCells.Adaptive(120.dp),
            horizontalArrangement = Arrangement.spacedBy(8.dp),
            verticalArrangement = Arrangement.spacedBy(8.dp),
        ) {
            items(state.history, key = { it.file.name }) { entry ->
                Thumbnail(entry, host) {
                    model.setPrompt(entry.parameters.prompt)
                    model.setSeed("${entry.parameters.seed}")
                    toDraw()
                }
            }
        }
    }
}

@Composable
private fun HistorySettings(state: DrawState, model: DrawModel) {
    val strings = LocalStrings.current
    SwitchRow(strings.keepHistory, state.settings.keepHistory) { keep -> model.change { it.copy(keepHistory = keep) } }
    LimitRow(state.settings.historyLimit) { limit -> model.change { it.copy(historyLimit = limit) } }
    if (state.history.isNotEmpty()) {
        OutlinedButton(model::clearHistory, enabled = !state.isBusy) { Text(strings.clearHistory) }
    }
}

@Composable
private fun Thumbnail(entry: Entry, host: Host, use: () -> Unit) {
    val strings = LocalStrings.current
    val bitmap = remember(entry.file) { host.bitmap(entry.file) } ?: return
    Column(Modifier.clickable(onClickLabel = strings.again, onClick = use)) {
        Image(bitmap, strings.pictureOf(entry.parameters.prompt), Modifier.fillMaxWidth().aspectRatio(1f))
        Text(entry.parameters.prompt, maxLines = 2, overflow = TextOverflow.Ellipsis, style = MaterialTheme.typography.bodySmall)
        Text(strings.drawnIn(entry.parameters.seconds, entry.parameters.seed), style = MaterialTheme.typography.labelSmall)
    }
}
