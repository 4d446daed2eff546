@file:Suppress("UNUSED_PARAMETER", "unused")

package org.edgegen.app
object R { object string { const val bench_channel = 1; const val bench_running = 2 }; object drawable { const val icon = 3 } }
