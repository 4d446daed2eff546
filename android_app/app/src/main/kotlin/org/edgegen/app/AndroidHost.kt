package org.edgegen.app

import android.content.ActivityNotFoundException
import android.content.Intent
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.net.Uri
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts.CreateDocument
import androidx.activity.result.contract.ActivityResultContracts.GetContent
import androidx.compose.ui.graphics.ImageBitmap
import androidx.compose.ui.graphics.asImageBitmap
import androidx.core.content.FileProvider
import org.edgegen.core.draw.Picture
import org.edgegen.core.state.DrawModel
import org.edgegen.ui.Host
import java.io.File
import java.io.IOException

private const val PNG = "image/png"

/** The file pickers, sharing and bitmaps of Android; made in an activity's onCreate. */
internal class AndroidHost(private val activity: ComponentActivity, private val model: DrawModel) : Host {
    private val resolver = activity.contentResolver
    private val pick = activity.registerForActivityResult(GetContent()) { uri -> uri?.let(::import) }
    private val create = activity.registerForActivityResult(CreateDocument(PNG)) { uri -> uri?.let(::write) }
    private val unsaved = File(activity.cacheDir, "unsaved.png") // survives that the activity is made anew meanwhile

    override fun bitmap(picture: Picture): ImageBitmap =
        Bitmap.createBitmap(picture.argb(), picture.width, picture.height, Bitmap.Config.ARGB_8888).asImageBitmap()

    override fun bitmap(file: File): ImageBitmap? = BitmapFactory.decodeFile(file.path)?.asImageBitmap()

    override fun pickBundle() = pick.launch("application/zip")

    override fun save(png: ByteArray, name: String) {
        unsaved.writeBytes(png)
        create.launch(name)
    }

    override fun share(png: ByteArray, name: String) {
        val folder = File(activity.cacheDir, "shared").apply {
            deleteRecursively()
            mkdirs()
        }
        val file = File(folder, name).apply { writeBytes(png) }
        val uri = FileProvider.getUriForFile(activity, "${activity.packageName}.shared", file)
        val send = Intent(Intent.ACTION_SEND).setType(PNG).putExtra(Intent.EXTRA_STREAM, uri)
        try {
            activity.startActivity(Intent.createChooser(send.addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION), null))
        } catch (_: ActivityNotFoundException) {
            return // nothing on this phone takes pictures
        }
    }

    private fun import(uri: Uri) = model.importZip { resolver.openInputStream(uri) ?: throw IOException("$uri is gone") }

    private fun write(uri: Uri) = model.save(unsaved) { resolver.openOutputStream(uri) ?: throw IOException("$uri is gone") }
}
