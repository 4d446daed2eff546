import EdgegenCore
import SwiftUI

/// Text to picture on this device, with the bundles that the app carries or was given.
@main
struct EdgegenApp: App {
  @State private var model = AppModel()

  var body: some Scene {
    WindowGroup {
      RootView()
        .environment(model)
        #if os(iOS)
          .onReceive(NotificationCenter.default.publisher(for: UIApplication.didReceiveMemoryWarningNotification)) {
            _ in
            model.freeMemory()
          }
        #endif
    }
  }
}
