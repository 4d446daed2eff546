import Foundation
import Testing

@testable import EdgegenCore

struct StatisticsTests {
  private struct Expected: Decodable {
    let n: Int
    let min, p50, p90, p95, max, trimmed_mean, cv, cv_trimmed: Double
  }

  private struct Case: Decodable, CustomTestStringConvertible {
    let runs: [Double]
    let summary: Expected
    var testDescription: String { "\(runs.count) runs" }
  }

  private struct File: Decodable {
    let noise_limit: Double
    let cases: [Case]
    let refused: [[Double]]
  }

  private static let file = Vectors.read("statistics", as: File.self)

  @Test(arguments: file.cases)
  private func summariesAreEdgegens(_ expected: Case) throws {
    let found = try Statistics.summarize(expected.runs), wanted = expected.summary
    #expect(found.n == wanted.n)
    let pairs = [
      (found.min, wanted.min), (found.p50, wanted.p50), (found.p90, wanted.p90), (found.p95, wanted.p95),
      (found.max, wanted.max), (found.trimmedMean, wanted.trimmed_mean), (found.cv, wanted.cv),
      (found.cvTrimmed, wanted.cv_trimmed),
    ]
    for (value, target) in pairs { #expect(abs(value - target) <= 1e-9 * abs(target)) }
    #expect(Statistics.noiseLimit == Self.file.noise_limit)
  }

  @Test(arguments: file.refused + [[.nan], [.infinity]])
  func runsThatAreNoTimesAreRefused(_ runs: [Double]) {
    expectError(.badRuns) { _ = try Statistics.summarize(runs) }
  }
}

struct MeasurementTests {
  /// A clock that moves by a number of milliseconds at each run.
  private final class FakeClock {
    var now = 0.0
    let each: Double

    init(each: Double) { self.each = each }

    func measure(_ settings: BenchSettings, isStopped: () -> Bool = { false }) throws -> Timing {
      try Timing.take(settings, clock: { self.now }, isStopped: isStopped) { { self.now += self.each } }
    }
  }

  @Test(arguments: [(1.0, 100, 10), (3.0, 70, 7), (50.0, 20, 1), (4000.0, 3, 1)])
  func runsAreTakenInBlocksUntilThereAreEnough(_ each: Double, _ count: Int, _ block: Int) throws {
    let taken = try FakeClock(each: each).measure(try BenchSettings())
    #expect((taken.runs.count, taken.block) == (count, block))
    #expect(taken.runs.allSatisfy { abs($0 - each) < 1e-9 } && !taken.isPartial)
    #expect(taken.firstMilliseconds == each)
  }

  @Test func aStopLeavesWhatWasMeasured() throws {
    let clock = FakeClock(each: 50)
    let taken = try clock.measure(try BenchSettings(), isStopped: { clock.now >= 500 })
    #expect(taken.runs.count == 6 && taken.isPartial)
  }

  @Test func settingsOutOfRangeAreRefused() {
    expectError(.badInput) { _ = try BenchSettings(runs: 0) }
    expectError(.badInput) { _ = try BenchSettings(threads: 0) }
    expectError(.badInput) { _ = try BenchSettings(seconds: .nan) }
    expectError(.badInput) { _ = try BenchSettings(seconds: 0) }
  }
}

struct BenchRowTests {
  private struct File: Decodable { let row: JSONValue }

  /// Every field of the vectors' row is there with the same kind of value, and none but what a row of ours adds.
  @Test func aRowHasTheFieldsThatEdgegenReads() throws {
    let folder = ScratchFolder(), loader = FakeLoader()
    let bundle = try TinyBundle.make(in: folder)
    let measurer = BundleMeasurer(
      FakeProvider(fake: loader), settings: try BenchSettings(runs: 5), versions: ["edgegen-swift": "0"],
      tellsMemory: true)
    for subject in try BenchSubject.all(of: bundle, on: "onnx") {
      let row = try #require(try measurer.measure(subject, bundle, loader))
      let wanted = try members(Vectors.read("rows", as: File.self).row)
      let found = try members(row)
      #expect(Set(found.keys) == Set(wanted.keys))
      for key in ["latency_ms", "settings", "memory", "conditions", "machine"] {
        let ours = Set(try members(found[key]).keys), theirs = Set(try members(wanted[key]).keys)
        #expect(ours == theirs.union(subject == .picture && key == "settings" ? ["steps"] : []), "\(key)")
      }
      #expect(row["component"]?.text == subject.name)
    }
  }

  private func members(_ value: JSONValue?) throws -> [String: JSONValue] {
    guard case .object(let members) = value else { throw EdgegenError(.badField, "no object") }
    return members
  }

  @Test func aLineThatWasCutOffIsClosed() throws {
    let folder = ScratchFolder()
    let record = RecordFile(folder.url.appendingPathComponent("deep/rows.jsonl"))
    try record.append(["source": "measured", "commit": .null])
    let handle = try FileHandle(forWritingTo: record.url)
    try handle.seekToEnd()
    try handle.write(contentsOf: Data("{\"source\": \"mea".utf8))
    try handle.close()
    try record.append(["source": "measured", "n": 2])
    #expect(record.rows() == [["source": "measured", "commit": .null], ["source": "measured", "n": 2]])
  }

  @Test func aRecordOfWhatIsNoNumberIsRefused() {
    let folder = ScratchFolder()
    let record = RecordFile(folder.url.appendingPathComponent("rows.jsonl"))
    #expect(throws: (any Error).self) { try record.append(["p50": .number(.nan)]) }
    #expect(record.rows().isEmpty)
  }

  @Test func datesAreThoseOfPython() {
    #expect(BenchRow.timestamp(Date(timeIntervalSince1970: 0)) == "1970-01-01T00:00:00+00:00")
  }
}
