package org.edgegen.app

import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.Service
import android.content.Context
import android.content.Intent
import android.content.pm.ServiceInfo
import android.os.Build
import android.os.IBinder
import org.edgegen.core.bench.BenchStatus
import org.edgegen.core.state.SeparateBench
import kotlin.concurrent.thread
import kotlin.system.exitProcess

/** Measures in a process of its own, whose memory is then the networks' alone, and which the screen does not disturb. */
class BenchService : Service() {
    override fun onBind(intent: Intent?): IBinder? = null

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        showNotification()
        val bundle = intent?.getStringExtra(BUNDLE)
        if (bundle == null) stopSelf() else thread(name = "bench") { measure(bundle) }
        return START_NOT_STICKY
    }

    private fun measure(bundle: String) {
        SeparateBench(appFiles(this), engines(), AndroidPhone(this, predictions(this)), versions(this)).run(bundle)
        stopSelf()
        exitProcess(0) // the next bench begins with a fresh process, whose peak of memory is not this one's
    }

    private fun showNotification() {
        val channel = NotificationChannel(CHANNEL, getString(R.string.bench_channel), NotificationManager.IMPORTANCE_LOW)
        service(this, NotificationManager::class.java).createNotificationChannel(channel)
        val notification = Notification.Builder(this, CHANNEL)
            .setSmallIcon(R.drawable.icon)
            .setContentTitle(getString(R.string.bench_running))
            .build()
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.UPSIDE_DOWN_CAKE) {
            startForeground(1, notification, ServiceInfo.FOREGROUND_SERVICE_TYPE_SPECIAL_USE)
        } else {
            startForeground(1, notification)
        }
    }

    companion object {
        const val BUNDLE = "bundle"
        private const val CHANNEL = "bench"

        /** Starts measuring a bundle of the app, or one in its inbox, by its folder's name. */
        fun start(context: Context, bundle: String) {
            BenchStatus(BenchStatus.RUNNING).write(appFiles(context).benchStatus)
            context.startForegroundService(Intent(context, BenchService::class.java).putExtra(BUNDLE, bundle))
        }
    }
}
