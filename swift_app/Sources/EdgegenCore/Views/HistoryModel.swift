import Foundation
import Observation

/// The state of the history's screen.
@MainActor @Observable
public final class HistoryModel {
  public private(set) var entries: [HistoryEntry]
  public private(set) var error: EdgegenError?

  private let store: HistoryStore
  private let settings: SettingsModel

  public init(_ store: HistoryStore, settings: SettingsModel) {
    self.store = store
    self.settings = settings
    entries = store.entries()
  }

  /// Keeps a drawing, unless the history is switched off.
  public func add(_ drawing: Drawing, of bundle: ModelBundle) {
    guard settings.values.keepsHistory else { return }
    do {
      try store.add(drawing, of: bundle, limit: settings.values.historyLimit)
      error = nil
    } catch {
      self.error = EdgegenError.of(error)
    }
    entries = store.entries()
  }

  public func remove(_ entry: HistoryEntry) {
    store.remove(entry)
    entries = store.entries()
  }

  public func removeAll() {
    entries.forEach(store.remove)
    entries = store.entries()
  }

  public func pictureURL(of entry: HistoryEntry) -> URL { store.pictureURL(of: entry) }
}
