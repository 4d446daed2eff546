import Foundation
import Observation

/// What a user may change, kept between starts.
public struct AppSettings: Codable, Equatable, Sendable {
  public var unit = ComputeUnit.all
  public var chosenBundle: String?  // nil: the app chooses
  public var keepsHistory = true
  public var historyLimit = 100
  public var measuredSeconds: [String: Double] = [:]  // of a whole picture, by bundle

  public static let historyLimits = [20, 100, 500]

  public init() {}
}

/// The settings, written to a file at every change.
@MainActor @Observable
public final class SettingsModel {
  public var values: AppSettings {
    didSet { if values != oldValue { save() } }
  }

  private let file: URL

  /// Reads the file; one that is missing or cannot be read gives the defaults.
  public init(file: URL) {
    self.file = file
    let data = try? Data(contentsOf: file)
    values = data.flatMap { try? JSONDecoder().decode(AppSettings.self, from: $0) } ?? AppSettings()
  }

  private func save() {
    try? FileManager.default.createDirectory(
      at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
    try? JSONEncoder().encode(values).write(to: file, options: .atomic)
  }
}
