/// How long to measure: until `runs` runs (and 10 rounds) are done or `seconds` have passed.
public struct BenchSettings: Equatable, Sendable {
  public let runs: Int
  public let seconds: Double
  public let warmup: Int
  public let threads: Int

  /// Fewer than one run, warm-up below 0, no thread or no time is an error.
  public init(runs: Int = 20, seconds: Double = 10, warmup: Int = 3, threads: Int = 1) throws {
    for (name, value, least) in [("runs", runs, 1), ("warmup", warmup, 0), ("threads", threads, 1)] where value < least
    {
      throw EdgegenError(.badInput, "\(name) is \(value).", "Give \(least) or more.")
    }
    guard seconds.isFinite, seconds > 0 else {
      throw EdgegenError(.badInput, "seconds is \(seconds).", "Give a number above 0.")
    }
    (self.runs, self.seconds, self.warmup, self.threads) = (runs, seconds, warmup, threads)
  }

  /// What edgegen measures with unless told otherwise.
  public static let standard = BenchSettings()

  private init() { (runs, seconds, warmup, threads) = (20, 10, 3, 1) }

  static let leastRounds = 10  // unless time runs out
  static let leastRuns = 3  // however long they take
  static let blockMilliseconds = 20.0  // a block lasts about so long ...
  static let longestBlock = 10  // ... and has at most so many runs
}
