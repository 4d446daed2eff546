import Foundation

/// Where the app keeps its files.
enum AppFolders {
  static let support = URL.applicationSupportDirectory.appendingPathComponent("edgegen")
  static let bundles = support.appendingPathComponent("bundles")
  static let history = support.appendingPathComponent("history")
  static let compiled = URL.cachesDirectory.appendingPathComponent("compiled")
  static let record = URL.documentsDirectory.appendingPathComponent("measurements.jsonl")

  /// The bundles inside the app.
  static let carried = Bundle.main.resourceURL?.appendingPathComponent("Bundles")
}
