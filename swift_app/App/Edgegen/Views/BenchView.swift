import EdgegenCore
import SwiftUI

/// Times on this device, and the file that edgegen reads.
struct BenchView: View {
  @Environment(AppModel.self) private var model

  var body: some View {
    NavigationStack {
      List {
        Section {
          if model.bench.isRunning {
            ProgressView("Measuring. Leave the device alone.")
            Button("Stop", role: .cancel) { model.bench.stop() }
          } else {
            Button("Measure", systemImage: "stopwatch") { model.measure() }
              .disabled(model.library.choice == nil)
          }
        }
        ErrorSection(error: model.bench.error)
        Section("Median in milliseconds") {
          ForEach(model.bench.results) { result in
            LabeledContent(result.name, value: result.milliseconds, format: .number.precision(.significantDigits(3)))
          }
        }
        if !model.bench.rows.isEmpty {
          Section {
            ShareLink(item: model.bench.recordURL)
          } footer: {
            Text("Read it with edgegen bench --import.")
          }
        }
      }
      .navigationTitle("Bench")
    }
  }
}
