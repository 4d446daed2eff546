import Foundation

/// Whether a bundle fits in memory, asked before it is loaded: a phone ends what takes too much without a word.
public struct MemoryCheck: Equatable, Sendable {
  public let neededBytes: Int
  public let availableBytes: Int?

  /// Weights of what is held at once, and as much again for what a runtime makes of them while it runs.
  private static let overWeights = 2

  public init(_ bundle: ModelBundle, backend: String, availableBytes: Int?) {
    neededBytes = Self.needed(bundle, backend: backend)
    self.availableBytes = availableBytes
  }

  public var fits: Bool { availableBytes.map { $0 >= neededBytes } ?? true }

  /// The memory at the peak: the text encoder is freed before transformer and decoder are opened.
  public static func needed(_ bundle: ModelBundle, backend: String) -> Int {
    let components = bundle.manifest.components(of: backend)
    func resident(_ isIncluded: (Role) -> Bool) -> Int {
      components.filter { $0.role.map(isIncluded) ?? false }.reduce(0) { $0 + $1.residentBytes }
    }
    return overWeights * max(resident { $0 == .textEncoder }, resident { $0 != .textEncoder })
  }

  /// Refuses what does not fit, with the cause by name.
  public func require(_ bundle: ModelBundle) throws {
    guard let availableBytes, !fits else { return }
    throw EdgegenError(
      .notEnoughMemory,
      "\(bundle.title) needs about \(Self.megabytes(neededBytes)) of memory, "
        + "\(Self.megabytes(availableBytes)) are free.",
      "Close other apps, or choose a smaller tier.")
  }

  static func megabytes(_ bytes: Int) -> String { "\((bytes + 500_000) / 1_000_000) MB" }
}
