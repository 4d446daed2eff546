@file:Suppress("UNUSED_PARAMETER", "unused")

package androidx.compose.foundation.layout
import androidx.compose.ui.Modifier
fun Modifier.safeDrawingPadding(): Modifier = this
