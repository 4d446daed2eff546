package org.edgegen.ui

import androidx.compose.runtime.Composable
import androidx.compose.runtime.CompositionLocalProvider
import androidx.compose.runtime.key
import androidx.compose.runtime.saveable.LocalSaveableStateRegistry
import androidx.compose.runtime.saveable.SaveableStateRegistry

/** What Android does at a rotation: saves what is saveable, throws the screen away, and makes another one with it. */
class SavedState {
    private var registry = newRegistry(null)

    fun save() {
        registry = newRegistry(registry.performSave())
    }

    /** [content], made anew whenever [identity] changes. */
    @Composable
    fun Keeping(identity: Any, content: @Composable () -> Unit) {
        key(identity) {
            CompositionLocalProvider(LocalSaveableStateRegistry provides registry) { content() }
        }
    }

    private fun newRegistry(values: Map<String, List<Any?>>?) = SaveableStateRegistry(values) { true }
}
