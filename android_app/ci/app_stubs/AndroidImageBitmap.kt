@file:Suppress("UNUSED_PARAMETER", "unused")

package androidx.compose.ui.graphics
import android.graphics.Bitmap
fun Bitmap.asImageBitmap(): ImageBitmap = throw UnsupportedOperationException()
