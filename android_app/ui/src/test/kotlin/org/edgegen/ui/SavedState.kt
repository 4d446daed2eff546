package org.edgegen.ui

import androidx.compose.runtime.Composable
import androidx.compose.runtime.CompositionLocalProvider
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.LocalSaveableStateRegistry
import androidx.compose.runtime.saveable.SaveableStateRegistry
import androidx.compose.runtime.setValue

/** What Android does at a rotation: saves what is saveable, throws the screen away, and makes another one with it. */
class SavedState {
    private var registry = newRegistry(null)
    private var isShown by mutableStateOf(true)

    /** Saves and throws the screen away. */
    fun stop() {
        registry = newRegistry(registry.performSave())
        isShown = false
    }

    /** Makes the screen anew with what was saved. */
    fun restore() {
        isShown = true
    }

    /** [content], while there is a screen. */
    @Composable
    fun Keeping(content: @Composable () -> Unit) {
        if (isShown) CompositionLocalProvider(LocalSaveableStateRegistry provides registry) { content() }
    }

    private fun newRegistry(values: Map<String, List<Any?>>?) = SaveableStateRegistry(values) { true }
}
