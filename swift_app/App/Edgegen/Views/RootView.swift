import EdgegenCore
import SwiftUI

/// The four screens.
struct RootView: View {
  var body: some View {
    TabView {
      GenerateView().tabItem { Label("Draw", systemImage: "paintbrush") }
      HistoryView().tabItem { Label("History", systemImage: "clock") }
      BundlesView().tabItem { Label("Models", systemImage: "shippingbox") }
      BenchView().tabItem { Label("Bench", systemImage: "stopwatch") }
    }
  }
}
