import Foundation

/// Measures a bundle's components and whole picture, one after the other.
public struct BundleMeasurer: BundleMeasuring {
  private let provider: any LoaderProvider
  private let settings: BenchSettings
  private let versions: [String: String]
  private let tellsMemory: Bool
  private let conditions: @Sendable () -> DeviceConditions

  /// `tellsMemory` is for a process that measures one subject and does nothing else.
  public init(
    _ provider: any LoaderProvider, settings: BenchSettings, versions: [String: String], tellsMemory: Bool = false,
    conditions: @escaping @Sendable () -> DeviceConditions = { DeviceConditions.now() }
  ) {
    self.provider = provider
    self.settings = settings
    self.versions = versions
    self.tellsMemory = tellsMemory
    self.conditions = conditions
  }

  public func measure(
    _ bundle: ModelBundle, unit: ComputeUnit, onRow: @escaping @Sendable (JSONValue) -> Void
  ) async throws {
    let backend = try bundle.backend(among: provider.backends)
    try MemoryCheck(bundle, backend: backend, availableBytes: MemoryMeter.availableBytes()).require(bundle)
    for subject in try BenchSubject.all(of: bundle, on: backend) {
      try Task.checkCancellation()
      let loader = try provider.loader(backend: backend, unit: unit)
      if let row = try measure(subject, bundle, loader) { onRow(row) }
    }
  }

  /// The row of one subject; nil where it was stopped before its first run.
  public func measure(
    _ subject: BenchSubject, _ bundle: ModelBundle, _ loader: any NetworkLoader,
    advance: (Int, Int) -> Void = { _, _ in }
  ) throws -> JSONValue? {
    let before = conditions()
    let taken = try Timing.take(settings, isStopped: { Task.isCancelled }, advance: advance) {
      try subject.open(bundle, loader)
    }
    guard !taken.runs.isEmpty else { return nil }
    return try BenchRow.make(
      taken, of: subject, bundle: bundle, loader: loader, settings: settings, device: .current(), before: before,
      after: conditions(), versions: versions, tellsMemory: tellsMemory)
  }
}
