@file:Suppress("UNUSED_PARAMETER", "unused")

package androidx.activity.result.contract
import android.net.Uri
abstract class ActivityResultContract<I, O>
class ActivityResultContracts {
    open class GetContent : ActivityResultContract<String, Uri?>()
    open class CreateDocument(mime: String) : ActivityResultContract<String, Uri?>()
}
