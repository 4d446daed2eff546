package org.edgegen.ui

import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.material3.Card
import androidx.compose.material3.CardDefaults
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.semantics.LiveRegionMode
import androidx.compose.ui.semantics.liveRegion
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import org.edgegen.core.Failure

/** What went wrong: in the user's language, then with its values and what to do. */
@Composable
internal fun FailureCard(failure: Failure, dismiss: () -> Unit) {
    val strings = LocalStrings.current
    val colors = CardDefaults.cardColors(containerColor = MaterialTheme.colorScheme.errorContainer)
    Card(Modifier.fillMaxWidth().padding(16.dp).semantics { liveRegion = LiveRegionMode.Assertive }, colors = colors) {
        Column(Modifier.padding(16.dp)) {
            Text(strings.failure(failure.kind), style = MaterialTheme.typography.titleMedium)
            Text("${failure.message} ${failure.remedy}".trim(), style = MaterialTheme.typography.bodySmall)
            TextButton(dismiss) { Text(strings.dismiss) }
        }
    }
}
