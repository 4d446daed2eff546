package org.edgegen.ui

import androidx.compose.foundation.horizontalScroll
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.BoxWithConstraints
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.Button
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.SuggestionChip
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.dp
import org.edgegen.core.state.Activity
import org.edgegen.core.state.DrawModel
import org.edgegen.core.state.DrawState
import org.edgegen.core.state.isSeed

/** Prompt, seed and the picture: below each other, or side by side where the screen is wide. */
@Composable
internal fun DrawPage(state: DrawState, model: DrawModel, host: Host, modifier: Modifier) {
    BoxWithConstraints(modifier) {
        if (maxWidth > maxHeight && maxWidth > 560.dp) {
            Row(horizontalArrangement = Arrangement.spacedBy(16.dp)) {
                Request(state, model, Modifier.weight(1f).verticalScroll(rememberScrollState()))
                PicturePanel(state, host, Modifier.weight(1f).verticalScroll(rememberScrollState()))
            }
        } else {
            Column(Modifier.verticalScroll(rememberScrollState()), verticalArrangement = Arrangement.spacedBy(16.dp)) {
                Request(state, model, Modifier)
                PicturePanel(state, host, Modifier)
            }
        }
    }
}

@Composable
private fun Request(state: DrawState, model: DrawModel, modifier: Modifier) {
    val strings = LocalStrings.current
    Column(modifier, verticalArrangement = Arrangement.spacedBy(8.dp)) {
        Text(state.choice?.let { strings.chosen(it.bundle.title, it.reason) } ?: strings.noBundle)
        OutlinedTextField(
            state.prompt, model::setPrompt, Modifier.fillMaxWidth(),
            label = { Text(strings.prompt) },
            placeholder = { state.choice?.let { Text(it.bundle.manifest.prompts.first()) } },
            maxLines = 4,
        )
        Suggestions(state, model)
        SeedField(state, model)
        GenerateOrStop(state, model)
    }
}

@Composable
private fun Suggestions(state: DrawState, model: DrawModel) {
    val prompts = state.choice?.bundle?.manifest?.prompts.orEmpty()
    Row(Modifier.horizontalScroll(rememberScrollState()), horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        prompts.forEach { prompt -> SuggestionChip(onClick = { model.setPrompt(prompt) }, label = { Text(prompt) }) }
    }
}

@Composable
private fun SeedField(state: DrawState, model: DrawModel) {
    val strings = LocalStrings.current
    OutlinedTextField(
        state.seed, model::setSeed, Modifier.fillMaxWidth(),
        label = { Text(strings.seed) },
        placeholder = { Text(strings.seedHint) },
        isError = !isSeed(state.seed),
        supportingText = if (isSeed(state.seed)) null else ({ Text(strings.seedWrong) }),
        singleLine = true,
    )
}

@Composable
private fun GenerateOrStop(state: DrawState, model: DrawModel) {
    val strings = LocalStrings.current
    val drawing = state.activity as? Activity.Drawing
    if (drawing == null) {
        Button(model::generate, Modifier.fillMaxWidth(), enabled = state.canGenerate) { Text(strings.generate) }
    } else {
        OutlinedButton(model::stop, Modifier.fillMaxWidth(), enabled = !drawing.stopping) {
            Text(if (drawing.stopping) strings.stopping else strings.stop)
        }
    }
}
