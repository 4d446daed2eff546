import EdgegenCore
import SwiftUI

/// Pictures that were drawn, newest first.
struct HistoryView: View {
  @Environment(AppModel.self) private var model

  var body: some View {
    @Bindable var settings = model.settings
    NavigationStack {
      List {
        Section {
          Toggle("Keep a history", isOn: $settings.values.keepsHistory)
          Picker("At most", selection: $settings.values.historyLimit) {
            ForEach(AppSettings.historyLimits, id: \.self) { Text("\($0) pictures") }
          }
        }
        ErrorSection(error: model.history.error)
        Section {
          ForEach(model.history.entries) { entry in
            HistoryRow(entry: entry, url: model.history.pictureURL(of: entry))
              .swipeActions {
                Button("Delete", systemImage: "trash", role: .destructive) { model.history.remove(entry) }
                Button("Use again", systemImage: "arrow.counterclockwise") { model.generator.reuse(entry) }
              }
              .contextMenu {
                Button("Use again", systemImage: "arrow.counterclockwise") { model.generator.reuse(entry) }
                ShareLink(item: model.history.pictureURL(of: entry))
                Button("Delete", systemImage: "trash", role: .destructive) { model.history.remove(entry) }
              }
          }
        }
      }
      .overlay {
        if model.history.entries.isEmpty {
          ContentUnavailableView("No pictures yet", systemImage: "clock")
        }
      }
      .navigationTitle("History")
      .toolbar {
        Button("Delete all", systemImage: "trash", role: .destructive) { model.history.removeAll() }
          .disabled(model.history.entries.isEmpty)
      }
    }
  }
}

/// One picture with its prompt and seed.
struct HistoryRow: View {
  let entry: HistoryEntry
  let url: URL
  @ScaledMetric private var side = 64.0

  var body: some View {
    HStack {
      AsyncImage(url: url) {
        $0.resizable().aspectRatio(contentMode: .fit)
      } placeholder: {
        ProgressView()
      }
      .frame(width: side, height: side)
      .clipShape(.rect(cornerRadius: 8))
      .accessibilityHidden(true)
      VStack(alignment: .leading) {
        Text(verbatim: entry.prompt)
        Text("Seed \(String(entry.seed)), \(entry.bundle)").font(.caption).foregroundStyle(.secondary)
        Text(entry.date, format: .dateTime).font(.caption).foregroundStyle(.secondary)
      }
    }
    .accessibilityElement(children: .combine)
  }
}
