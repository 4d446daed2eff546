package org.edgegen.ui

import androidx.compose.foundation.isSystemInDarkTheme
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.padding
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Surface
import androidx.compose.material3.Tab
import androidx.compose.material3.TabRow
import androidx.compose.material3.Text
import androidx.compose.material3.darkColorScheme
import androidx.compose.material3.lightColorScheme
import androidx.compose.runtime.Composable
import androidx.compose.runtime.CompositionLocalProvider
import androidx.compose.runtime.collectAsState
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.dp
import org.edgegen.core.state.DrawModel
import java.util.Locale

private enum class Page { DRAW, HISTORY, BUNDLES }

/** The whole app: three pages over the state of [model]. */
@Composable
fun EdgegenScreen(
    model: DrawModel,
    host: Host,
    modifier: Modifier = Modifier,
    strings: Strings = stringsOf(Locale.getDefault()),
    dark: Boolean = isSystemInDarkTheme(),
) {
    CompositionLocalProvider(LocalStrings provides strings) {
        MaterialTheme(if (dark) darkColorScheme() else lightColorScheme()) {
            Surface(Modifier.fillMaxSize()) { Pages(model, host, modifier) }
        }
    }
}

@Composable
private fun Pages(model: DrawModel, host: Host, modifier: Modifier) {
    val state by model.state.collectAsState()
    var page by rememberSaveable { mutableStateOf(Page.DRAW) }
    Column(modifier.fillMaxSize()) {
        PageTabs(page) { page = it }
        state.failure?.let { FailureCard(it, model::dismissFailure) }
        val content = Modifier.fillMaxSize().padding(16.dp)
        when (page) {
            Page.DRAW -> DrawPage(state, model, host, content)
            Page.HISTORY -> HistoryPage(state, model, host, content) { page = Page.DRAW }
            Page.BUNDLES -> BundlesPage(state, model, host, content)
        }
    }
}

@Composable
private fun PageTabs(page: Page, choose: (Page) -> Unit) {
    val strings = LocalStrings.current
    val titles = mapOf(Page.DRAW to strings.draw, Page.HISTORY to strings.history, Page.BUNDLES to strings.bundles)
    TabRow(page.ordinal) {
        titles.forEach { (each, title) -> Tab(each == page, onClick = { choose(each) }, text = { Text(title) }) }
    }
}
