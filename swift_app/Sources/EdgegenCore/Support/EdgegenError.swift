import Foundation

/// An expected failure: one line for people.
///
/// `message` names the value and the limit it broke, `remedy` what to do next.
public struct EdgegenError: Error, Equatable, Sendable, CustomStringConvertible, LocalizedError {
  /// What went wrong, for callers that decide and for the app's translations.
  public enum Kind: String, Sendable, CaseIterable, Codable {
    // a bundle, as tests/vectors/README.md defines them
    case noManifest = "no_manifest"
    case unreadableManifest = "unreadable_manifest"
    case unknownVersion = "unknown_version"
    case foreignNetworks = "foreign_networks"
    case badField = "bad_field"
    case badValue = "bad_value"
    case badSigmas = "bad_sigmas"
    case badShape = "bad_shape"
    case incomplete
    case pathOutside = "path_outside"
    case missingFile = "missing_file"
    case changedFile = "changed_file"
    // all else
    case badTokenizer = "bad_tokenizer"
    case badInput = "bad_input"
    case badRuns = "bad_runs"
    case notFinite = "not_finite"
    case notEnoughMemory = "not_enough_memory"
    case runtime
    case disk
  }

  public let kind: Kind
  public let message: String
  public let remedy: String

  public init(_ kind: Kind, _ message: String, _ remedy: String = "") {
    self.kind = kind
    self.message = message
    self.remedy = remedy
  }

  public var description: String { remedy.isEmpty ? message : "\(message) \(remedy)" }
  public var errorDescription: String? { description }

  /// 2 for input that cannot be used, 1 for what failed on the way, as edgegen's commands exit.
  public var exitCode: Int32 {
    switch kind {
    case .notFinite, .notEnoughMemory, .runtime: 1
    default: 2
    }
  }
}
