package org.edgegen.app

import android.app.Activity
import android.os.Bundle

/** Where `adb shell am start -n org.edgegen.app/.BenchActivity --es bundle NAME` arrives; shows nothing. */
class BenchActivity : Activity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        intent.getStringExtra(BenchService.BUNDLE)?.let { BenchService.start(this, it) }
        finish()
    }
}
