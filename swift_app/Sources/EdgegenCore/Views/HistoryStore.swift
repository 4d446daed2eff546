import Foundation

/// A picture that was drawn and how to draw it again.
public struct HistoryEntry: Codable, Equatable, Sendable, Identifiable {
  public let id: UUID
  public let date: Date
  public let prompt: String
  public let seed: UInt64
  public let steps: Int
  public let guidance: Double
  public let bundle: String
  public let seconds: Double
}

/// Pictures on disk, newest first: `<id>.png` and, written last, `<id>.json`.
public struct HistoryStore: Sendable {
  private let folder: URL

  public init(folder: URL) { self.folder = folder }

  public func entries() -> [HistoryEntry] {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
    let found = names.filter { $0.hasSuffix(".json") }.compactMap { name in
      (try? Data(contentsOf: folder.appendingPathComponent(name))).flatMap {
        try? JSONDecoder().decode(HistoryEntry.self, from: $0)
      }
    }
    return found.sorted { ($0.date, $0.id.uuidString) > ($1.date, $1.id.uuidString) }
  }

  /// Keeps a drawing and lets go of the oldest beyond `limit`.
  public func add(_ drawing: Drawing, of bundle: ModelBundle, limit: Int, date: Date = Date()) throws {
    let entry = HistoryEntry(
      id: UUID(), date: date, prompt: drawing.prompt, seed: drawing.seed, steps: drawing.steps,
      guidance: drawing.guidance, bundle: bundle.title, seconds: drawing.seconds)
    do {
      try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
      try drawing.png(bundle: bundle).write(to: pictureURL(of: entry), options: .atomic)
      try JSONEncoder().encode(entry).write(to: recordURL(of: entry), options: .atomic)
    } catch let error as NSError {
      throw EdgegenError(.disk, "the picture cannot be kept: \(error.localizedDescription).", "Free some space.")
    }
    for old in entries().dropFirst(max(0, limit)) { remove(old) }
  }

  public func remove(_ entry: HistoryEntry) {
    try? FileManager.default.removeItem(at: recordURL(of: entry))
    try? FileManager.default.removeItem(at: pictureURL(of: entry))
  }

  public func pictureURL(of entry: HistoryEntry) -> URL {
    folder.appendingPathComponent("\(entry.id.uuidString).png")
  }

  private func recordURL(of entry: HistoryEntry) -> URL {
    folder.appendingPathComponent("\(entry.id.uuidString).json")
  }
}
