import Foundation

/// Milliseconds of one subject's runs, taken as edgegen's `bench/measure.py` takes them.
public struct Timing: Equatable, Sendable {
  public let loadMilliseconds: Double
  public let firstMilliseconds: Double
  public let baseBytes: Int  // of the process before loading
  public let loadedBytes: Int  // at the peak of loading
  public let peakBytes: Int
  public let block: Int  // runs timed between two looks at the clock's sum
  public let runs: [Double]
  public let isPartial: Bool

  /// Opens a subject, keeps its first run apart, warms it up, and times blocks of runs until there are enough.
  ///
  /// `open` returns one run. `isStopped` is asked before every block: what was measured until then is partial.
  public static func take(
    _ settings: BenchSettings, clock: () -> Double = Self.milliseconds, isStopped: () -> Bool = { false },
    advance: (Int, Int) -> Void = { _, _ in }, open: () throws -> () throws -> Void
  ) throws -> Timing {
    MemoryMeter.resetPeak()
    let base = MemoryMeter.peakBytes()
    var run: () throws -> Void = {}
    let load = try timed(clock) { run = try open() }
    let loaded = MemoryMeter.peakBytes()
    let first = try timed(clock, run)
    var warm = [first]
    if settings.warmup > 0 && first < 1e3 * settings.seconds {
      warm = try (0..<settings.warmup).map { _ in try timed(clock, run) }
    }
    let block = blockLength(settings, fastest: warm.min() ?? first)
    var runs: [Double] = [], rounds = 0
    while !isEnough(runs, rounds: rounds, settings) && !isStopped() {
      for _ in 0..<block { runs.append(try timed(clock, run)) }
      rounds += 1
      advance(min(settings.runs, runs.count), settings.runs)
    }
    return Timing(
      loadMilliseconds: load, firstMilliseconds: first, baseBytes: base, loadedBytes: loaded,
      peakBytes: MemoryMeter.peakBytes(), block: block, runs: runs,
      isPartial: !isEnough(runs, rounds: rounds, settings))
  }

  public var summary: Summary { get throws { try Statistics.summarize(runs) } }

  /// A clock that only runs forward, in milliseconds.
  public static func milliseconds() -> Double { 1e3 * ProcessInfo.processInfo.systemUptime }

  private static func timed(_ clock: () -> Double, _ run: () throws -> Void) rethrows -> Double {
    let start = clock()
    try run()
    return clock() - start
  }

  static func blockLength(_ settings: BenchSettings, fastest: Double) -> Int {
    let wanted = fastest > 0 ? (BenchSettings.blockMilliseconds / fastest).rounded(.up) : .infinity
    return max(
      1, min(settings.runs, wanted < Double(BenchSettings.longestBlock) ? Int(wanted) : BenchSettings.longestBlock))
  }

  static func isEnough(_ runs: [Double], rounds: Int, _ settings: BenchSettings) -> Bool {
    let enough =
      runs.count >= settings.runs && (rounds >= BenchSettings.leastRounds || settings.runs < BenchSettings.leastRounds)
    let least = min(BenchSettings.leastRuns, settings.runs)
    return enough || (runs.count >= least && runs.reduce(0, +) >= 1e3 * settings.seconds)
  }
}
