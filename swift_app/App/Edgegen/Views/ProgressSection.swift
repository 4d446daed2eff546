import EdgegenCore
import SwiftUI

/// What is being done, while a picture is drawn.
struct ProgressSection: View {
  let phase: GeneratorModel.Phase

  var body: some View {
    if phase != .idle {
      Section {
        switch phase {
        case .idle: EmptyView()
        case .opening:
          ProgressView("Opening the model. The first time, this device prepares it, which can take minutes.")
        case .drawing(let step, let count):
          ProgressView("Step \(step) of \(count)", value: Double(step), total: Double(count))
        case .decoding: ProgressView("Finishing the picture")
        case .stopping: ProgressView("Stopping after this step")
        }
      }
      .accessibilityElement(children: .combine)
    }
  }
}

/// What went wrong, in the reader's language, with the cause.
struct ErrorSection: View {
  let error: EdgegenError?

  var body: some View {
    if let error {
      Section {
        Label(LocalizedStringKey("error.\(error.kind.rawValue)"), systemImage: "exclamationmark.triangle")
          .font(.headline)
        Text(verbatim: error.description).font(.callout).foregroundStyle(.secondary)
      }
      .accessibilityElement(children: .combine)
    }
  }
}
