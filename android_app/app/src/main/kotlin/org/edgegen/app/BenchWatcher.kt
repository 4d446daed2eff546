package org.edgegen.app

import androidx.lifecycle.lifecycleScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.isActive
import kotlinx.coroutines.launch
import org.edgegen.core.Failure
import org.edgegen.core.Kind
import org.edgegen.core.bench.BenchStatus
import org.edgegen.core.state.Activity

private const val EVERY_MS = 500L

/** Carries the bench's status, which another process writes, into the model while the screen is seen. */
internal object BenchWatcher {
    fun watch(activity: MainActivity) {
        val model = (activity.application as EdgegenApplication).model
        val file = appFiles(activity).benchStatus
        activity.lifecycleScope.launch {
            while (isActive) {
                if (model.state.value.activity is Activity.Measuring) BenchStatus.read(file)?.let { tell(it, model::measured) }
                delay(EVERY_MS)
            }
        }
    }

    private fun tell(status: BenchStatus, measured: (Activity.Measuring?, Failure?) -> Unit) {
        val failure = if (status.state == BenchStatus.FAILED) Failure(kindOf(status.kind), status.message) else null
        measured(if (status.isOver) null else Activity.Measuring(status.part, status.done, maxOf(1, status.of)), failure)
    }

    private fun kindOf(word: String) = Kind.entries.firstOrNull { it.word == word } ?: Kind.RUNTIME
}
