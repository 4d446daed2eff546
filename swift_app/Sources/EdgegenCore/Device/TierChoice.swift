import Foundation

/// Which of several bundles a device draws with: the widest that fits its memory and is quick enough there.
public struct TierChoice: Equatable, Sendable {
  public enum Reason: String, Equatable, Sendable {
    case chosenByUser, widestThatFits, measuredQuickEnough, smallestOfAll
  }

  public let bundle: ModelBundle
  public let reason: Reason

  /// A picture should not take longer, where that was measured.
  public static let patienceSeconds = 10.0
  /// Chips before these have a Neural Engine that ran the paper's networks only at the smallest width, if at all.
  private static let firstStrongPhone = 13  // iPhone13,x: A14

  /// Chooses among bundles. `measuredSeconds` are those of whole pictures by bundle title; `override` wins where it is
  /// the title of a bundle. nil only where there are no bundles.
  public static func choose(
    _ bundles: [ModelBundle], backends: [String], availableBytes: Int?, model: String? = nil,
    measuredSeconds: [String: Double] = [:], override: String? = nil
  ) -> TierChoice? {
    let ordered = bundles.sorted { ($0.manifest.width, $0.title) > ($1.manifest.width, $1.title) }
    if let override, let found = ordered.first(where: { $0.title == override }) {
      return TierChoice(bundle: found, reason: .chosenByUser)
    }
    guard let smallest = ordered.last else { return nil }
    if isWeak(model) { return TierChoice(bundle: smallest, reason: .smallestOfAll) }
    for bundle in ordered where fits(bundle, backends, availableBytes) {
      guard let seconds = measuredSeconds[bundle.title] else {
        return TierChoice(bundle: bundle, reason: .widestThatFits)
      }
      if seconds <= patienceSeconds { return TierChoice(bundle: bundle, reason: .measuredQuickEnough) }
    }
    return TierChoice(bundle: smallest, reason: .smallestOfAll)
  }

  private static func fits(_ bundle: ModelBundle, _ backends: [String], _ availableBytes: Int?) -> Bool {
    guard let backend = try? bundle.backend(among: backends) else { return false }
    return MemoryCheck(bundle, backend: backend, availableBytes: availableBytes).fits
  }

  /// Whether a model such as iPhone12,1 is older than the first with a strong Neural Engine.
  static func isWeak(_ model: String?) -> Bool {
    guard let model, model.hasPrefix("iPhone"), let digits = model.dropFirst(6).split(separator: ",").first else {
      return false
    }
    return Int(digits).map { $0 < firstStrongPhone } ?? false
  }
}
