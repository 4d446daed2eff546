import Foundation
import Observation

/// The state of the list of bundles: what there is, which one draws, and an import under way.
@MainActor @Observable
public final class LibraryModel {
  public private(set) var bundles: [ModelBundle] = []
  public private(set) var importProgress: Double?  // nil: nothing is being imported
  public private(set) var error: EdgegenError?

  private let library: BundleLibrary
  private let settings: SettingsModel
  private let backends: [String]
  private let availableBytes: Int?
  private let deviceModel: String?
  private var task: Task<Void, Never>?

  /// `backends` are those that can run here; the memory is asked once, before anything is loaded.
  public init(
    _ library: BundleLibrary, settings: SettingsModel, backends: [String], availableBytes: Int?, deviceModel: String?
  ) {
    self.library = library
    self.settings = settings
    self.backends = backends
    self.availableBytes = availableBytes
    self.deviceModel = deviceModel
    library.cleanUp()
    reload()
  }

  /// The bundle that draws and why it is that one; nil where there is none.
  public var choice: TierChoice? {
    TierChoice.choose(
      bundles, backends: backends, availableBytes: availableBytes, model: deviceModel,
      measuredSeconds: settings.values.measuredSeconds, override: settings.values.chosenBundle)
  }

  /// Draws with a bundle from now on; nil lets the app choose again.
  public func choose(_ bundle: ModelBundle?) { settings.values.chosenBundle = bundle?.title }

  /// Imports a folder that a file picker gave; does nothing while another is being imported.
  public func importBundle(from source: URL) {
    guard importProgress == nil else { return }
    (importProgress, error) = (0, nil)
    task = Task { await self.run(source) }
  }

  public func stopImport() { task?.cancel() }

  /// Waits until nothing is being imported.
  public func finish() async { await task?.value }

  public func remove(_ bundle: ModelBundle) {
    do { try library.remove(bundle) } catch { self.error = EdgegenError.of(error) }
    reload()
  }

  public func dismissError() { error = nil }

  private func run(_ source: URL) async {
    let (steps, sender) = AsyncStream.makeStream(of: Double.self)
    let listener = Task { for await share in steps { self.importProgress = share } }
    let result = await Result.of { [library] in
      try await Self.copy(source, into: library) { sender.yield($0) }
    }
    sender.finish()
    await listener.value
    importProgress = nil
    if case .failure(let failure) = result, !(failure is CancellationError) { error = EdgegenError.of(failure) }
    reload()
  }

  nonisolated private static func copy(
    _ source: URL, into library: BundleLibrary, advance: @Sendable (Double) -> Void
  ) async throws {
    try library.importBundle(from: source, isStopped: { Task.isCancelled }) { done, total in
      advance(total > 0 ? Double(done) / Double(total) : 1)
    }
  }

  private func reload() { bundles = library.bundles() }
}
