import Foundation

/// Milliseconds of n runs. `cv` is the standard deviation over the mean, `cvTrimmed` without the runs trimmed.
public struct Summary: Equatable, Sendable {
  public let n: Int
  public let min, p50, p90, p95, max, trimmedMean, cv, cvTrimmed: Double
}

/// What a row of timings says: the statistics of edgegen's `bench/statistics.py`.
public enum Statistics {
  static let trim = 0.1  // of the runs, left out at either end of the trimmed mean
  public static let noiseLimit = 0.25  // of cvTrimmed: above, a median of 20 runs is too uncertain to tell

  /// The statistics of milliseconds; no runs, or one that is not a positive number, is an error.
  public static func summarize(_ runs: [Double]) throws -> Summary {
    guard !runs.isEmpty, runs.allSatisfy({ $0.isFinite && $0 > 0 }) else {
      throw EdgegenError(.badRuns, "\(runs.count) runs, not all of them positive milliseconds: nothing to summarize.")
    }
    let ordered = runs.sorted()
    let cut = Int(trim * Double(runs.count))
    let kept = Array(ordered[cut..<ordered.count - cut])
    return Summary(
      n: runs.count, min: ordered[0], p50: percentile(ordered, 50), p90: percentile(ordered, 90),
      p95: percentile(ordered, 95), max: ordered[ordered.count - 1], trimmedMean: mean(kept), cv: variation(runs),
      cvTrimmed: variation(kept))
  }

  /// The value below which a share of sorted runs lies, between the two nearest in proportion.
  private static func percentile(_ ordered: [Double], _ percent: Double) -> Double {
    let at = percent / 100 * Double(ordered.count - 1)
    let below = Int(at)
    guard below + 1 < ordered.count else { return ordered[below] }
    return ordered[below] + (ordered[below + 1] - ordered[below]) * (at - Double(below))
  }

  private static func mean(_ runs: [Double]) -> Double { runs.reduce(0, +) / Double(runs.count) }

  /// Coefficient of variation with n - 1 degrees of freedom; 0 for a single run.
  private static func variation(_ runs: [Double]) -> Double {
    guard runs.count > 1 else { return 0 }
    let middle = mean(runs)
    let squares = runs.reduce(0) { $0 + ($1 - middle) * ($1 - middle) }
    return (squares / Double(runs.count - 1)).squareRoot() / middle
  }
}
