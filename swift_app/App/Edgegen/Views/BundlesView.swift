import EdgegenCore
import SwiftUI
import UniformTypeIdentifiers

/// The bundles there are, which one draws, and the import of another.
struct BundlesView: View {
  @Environment(AppModel.self) private var model
  @State private var isPicking = false

  var body: some View {
    @Bindable var settings = model.settings
    NavigationStack {
      List {
        Section("Draws with") {
          ChoicePicker()
          Picker("Runs on", selection: $settings.values.unit) {
            ForEach(ComputeUnit.allCases, id: \.self) { unit in
              Text(LocalizedStringKey("unit.\(unit.rawValue)")).tag(unit)
            }
          }
        }
        ErrorSection(error: model.library.error)
        if let share = model.library.importProgress {
          Section {
            ProgressView("Copying and checking", value: share)
            Button("Stop", role: .cancel) { model.library.stopImport() }
          }
        }
        Section("Models") {
          ForEach(model.library.bundles, id: \.root) { BundleRow(bundle: $0) }
        }
      }
      .navigationTitle("Models")
      .toolbar {
        Button("Import", systemImage: "plus") { isPicking = true }
          .disabled(model.library.importProgress != nil)
      }
      .fileImporter(isPresented: $isPicking, allowedContentTypes: [.folder]) { take($0) }
    }
  }

  private func take(_ picked: Result<URL, any Error>) {
    guard let url = try? picked.get() else { return }
    let isScoped = url.startAccessingSecurityScopedResource()
    model.library.importBundle(from: url)
    Task {
      await model.library.finish()
      if isScoped { url.stopAccessingSecurityScopedResource() }
    }
  }
}

/// The bundle that draws, or that the app chooses, with the reason.
struct ChoicePicker: View {
  @Environment(AppModel.self) private var model

  var body: some View {
    @Bindable var settings = model.settings
    Picker("Model", selection: $settings.values.chosenBundle) {
      Text("Chosen by the app").tag(String?.none)
      ForEach(model.library.bundles, id: \.root) { Text(verbatim: $0.title).tag(String?.some($0.title)) }
    }
    if let choice = model.library.choice {
      LabeledContent {
        Text(LocalizedStringKey("reason.\(choice.reason.rawValue)"))
      } label: {
        Text(verbatim: choice.bundle.title)
      }
    } else {
      Label("There is no model yet. Import one.", systemImage: "shippingbox")
    }
  }
}

/// A bundle with its size.
struct BundleRow: View {
  @Environment(AppModel.self) private var model
  let bundle: ModelBundle

  var body: some View {
    VStack(alignment: .leading) {
      Text(verbatim: bundle.title)
      Text(
        "\(bundle.manifest.resolution[0]) × \(bundle.manifest.resolution[1]), \(bundle.manifest.bits.formatted()) bits"
      )
      .font(.caption)
      .foregroundStyle(.secondary)
    }
    .accessibilityElement(children: .combine)
    .swipeActions {
      Button("Delete", systemImage: "trash", role: .destructive) { model.library.remove(bundle) }
    }
  }
}
