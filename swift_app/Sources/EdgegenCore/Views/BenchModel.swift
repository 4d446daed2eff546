import Foundation
import Observation

/// Measures a bundle away from the screen's thread.
public protocol BundleMeasuring: Sendable {
  /// Measures every component and the picture; `onRow` is given each row as soon as it is whole. Cancelling the task
  /// ends it with what was measured, marked partial.
  func measure(
    _ bundle: ModelBundle, unit: ComputeUnit, onRow: @escaping @Sendable (JSONValue) -> Void
  ) async throws
}

/// The state of the bench's screen.
@MainActor @Observable
public final class BenchModel {
  public private(set) var rows: [JSONValue] = []
  public private(set) var isRunning = false
  public private(set) var error: EdgegenError?

  private let measurer: any BundleMeasuring
  private let settings: SettingsModel
  private let record: RecordFile
  private var task: Task<Void, Never>?

  /// Rows are appended to `record`, the file that is shared with `edgegen bench --import`.
  public init(_ measurer: any BundleMeasuring, settings: SettingsModel, record: RecordFile) {
    self.measurer = measurer
    self.settings = settings
    self.record = record
  }

  /// A row as a person reads it.
  public struct MedianTime: Identifiable, Equatable, Sendable {
    public let name: String
    public let milliseconds: Double
    public var id: String { name }
  }

  /// The medians of the rows.
  public var results: [MedianTime] {
    rows.compactMap { row in
      guard let name = row["component"]?.text, let middle = row["latency_ms"]?["p50"]?.double else { return nil }
      return MedianTime(name: name, milliseconds: middle)
    }
  }

  public var recordURL: URL { record.url }

  public func start(_ bundle: ModelBundle, unit: ComputeUnit) {
    guard !isRunning else { return }
    (rows, error, isRunning) = ([], nil, true)
    task = Task { await self.run(bundle, unit) }
  }

  public func stop() { task?.cancel() }

  /// Waits until nothing is being measured.
  public func finish() async { await task?.value }

  private func run(_ bundle: ModelBundle, _ unit: ComputeUnit) async {
    let (measured, sender) = AsyncStream.makeStream(of: JSONValue.self)
    let listener = Task { for await row in measured { self.keep(row, of: bundle) } }
    let result = await Result.of { [measurer] in
      try await measurer.measure(bundle, unit: unit) { sender.yield($0) }
    }
    sender.finish()
    await listener.value
    isRunning = false
    if case .failure(let failure) = result, !(failure is CancellationError) { error = EdgegenError.of(failure) }
  }

  private func keep(_ row: JSONValue, of bundle: ModelBundle) {
    rows.append(row)
    do { try record.append(row) } catch { self.error = EdgegenError.of(error) }
    if row["component"]?.text == BenchSubject.picture.name, let middle = row["latency_ms"]?["p50"]?.double {
      settings.values.measuredSeconds[bundle.title] = middle / 1e3
    }
  }
}
