package org.edgegen.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.selection.selectable
import androidx.compose.foundation.selection.toggleable
import androidx.compose.material3.ExperimentalMaterial3Api
import androidx.compose.material3.FilterChip
import androidx.compose.material3.RadioButton
import androidx.compose.material3.Switch
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.semantics.Role
import androidx.compose.ui.unit.dp

private val LIMITS = listOf(10, 50, 200)

/** A label with a switch; the whole row is one target, for fingers and for TalkBack. */
@Composable
internal fun SwitchRow(label: String, on: Boolean, change: (Boolean) -> Unit) {
    Row(
        Modifier.fillMaxWidth().toggleable(on, role = Role.Switch, onValueChange = change),
        Arrangement.SpaceBetween,
        Alignment.CenterVertically,
    ) {
        Text(label)
        Switch(on, onCheckedChange = null)
    }
}

/** A label with a button of which one of several is on. */
@Composable
internal fun RadioRow(label: String, on: Boolean, choose: () -> Unit, more: @Composable () -> Unit = {}) {
    Row(Modifier.fillMaxWidth(), Arrangement.SpaceBetween, Alignment.CenterVertically) {
        Row(Modifier.weight(1f).selectable(on, role = Role.RadioButton, onClick = choose), verticalAlignment = Alignment.CenterVertically) {
            RadioButton(on, onClick = null)
            Text(label)
        }
        more()
    }
}

/** How many pictures are kept. */
@OptIn(ExperimentalMaterial3Api::class)
@Composable
internal fun LimitRow(limit: Int, choose: (Int) -> Unit) {
    Row(horizontalArrangement = Arrangement.spacedBy(8.dp), verticalAlignment = Alignment.CenterVertically) {
        Text(LocalStrings.current.historyLimit)
        LIMITS.forEach { each -> FilterChip(each == limit, onClick = { choose(each) }, label = { Text("$each") }) }
    }
}
