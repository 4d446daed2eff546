package org.edgegen.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.semantics.LiveRegionMode
import androidx.compose.ui.semantics.liveRegion
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import org.edgegen.core.state.Activity
import org.edgegen.core.state.BundleItem
import org.edgegen.core.state.DrawModel
import org.edgegen.core.state.DrawState

/** Which bundle draws, what else there is, importing and measuring. */
@Composable
internal fun BundlesPage(state: DrawState, model: DrawModel, host: Host, modifier: Modifier) {
    val strings = LocalStrings.current
    Column(modifier.verticalScroll(rememberScrollState()), verticalArrangement = Arrangement.spacedBy(8.dp)) {
        RadioRow(strings.automatic, state.settings.bundle == null, choose = { model.choose(null) })
        state.bundles.forEach { BundleRow(it, state, model) }
        Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
            OutlinedButton(host::pickBundle, enabled = !state.isBusy) { Text(strings.importFile) }
            OutlinedButton(model::importInbox, enabled = !state.isBusy) { Text(strings.importPushed) }
        }
        SwitchRow(strings.previews, state.settings.previews) { on -> model.change { it.copy(previews = on) } }
        Measuring(state, model)
    }
}

@Composable
private fun BundleRow(item: BundleItem, state: DrawState, model: DrawModel) {
    RadioRow(item.title, state.settings.bundle == item.key, choose = { model.choose(item.key) }) {
        TextButton(onClick = { model.remove(item.key) }, enabled = !state.isBusy) { Text(LocalStrings.current.remove) }
    }
}

@Composable
private fun Measuring(state: DrawState, model: DrawModel) {
    val strings = LocalStrings.current
    if (model.canMeasure) {
        OutlinedButton(model::measure, enabled = !state.isBusy && state.choice != null) { Text(strings.measure) }
    }
    told(state.activity)?.let { Text(it, Modifier.semantics { liveRegion = LiveRegionMode.Polite }) }
    if (state.times.isNotEmpty()) Text(strings.times, style = MaterialTheme.typography.titleMedium)
    state.times.forEach { Text(strings.time(it.part, it.milliseconds, "${it.backend}, ${it.bundle}")) }
}

@Composable
private fun told(activity: Activity): String? =
    when (activity) {
        is Activity.Importing -> LocalStrings.current.importing(activity.bytes / 1_000_000)
        is Activity.Measuring -> LocalStrings.current.measuring(activity.part, activity.done, activity.of)
        is Activity.Drawing -> LocalStrings.current.working
        Activity.Idle -> null
    }
