import Foundation

/// Makes the loaders of the back ends that an app was built with.
public protocol LoaderProvider: Sendable {
  /// Back ends in the order in which they are preferred here.
  var backends: [String] { get }

  func loader(backend: String, unit: ComputeUnit) throws -> any NetworkLoader
}

/// Draws pictures away from the screen's thread.
public protocol PictureDrawing: Sendable {
  /// Draws a picture; `onEvent` is told of each step. Cancelling the task stops it between two steps.
  func draw(
    _ request: DrawRequest, with bundle: ModelBundle, unit: ComputeUnit,
    onEvent: @escaping @Sendable (DrawEvent) -> Void
  ) async throws -> Drawing
}

/// Draws with a bundle's networks, and keeps transformer and decoder open for the next picture.
public actor PictureDrawer: PictureDrawing {
  private let provider: any LoaderProvider
  private let availableBytes: @Sendable () -> Int?
  private var kept: Kept?

  private struct Kept {
    let bundle: ModelBundle
    let unit: ComputeUnit
    let networks: BundleNetworks
    let events: EventRelay
  }

  public init(
    _ provider: any LoaderProvider, availableBytes: @escaping @Sendable () -> Int? = MemoryMeter.availableBytes
  ) {
    self.provider = provider
    self.availableBytes = availableBytes
  }

  public func draw(
    _ request: DrawRequest, with bundle: ModelBundle, unit: ComputeUnit,
    onEvent: @escaping @Sendable (DrawEvent) -> Void
  ) async throws -> Drawing {
    let current = try networks(of: bundle, unit)
    current.events.target = onEvent
    let result = Result {
      try Pipeline(current.networks).draw(request, isStopped: { Task.isCancelled }, onEvent: onEvent)
    }
    current.events.target = nil
    if case .failure(let error) = result, !(error is CancellationError) { kept = nil }  // to be opened anew
    return try result.get()
  }

  /// Frees every network, as when the system warns of low memory.
  public func unload() { kept = nil }

  private func networks(of bundle: ModelBundle, _ unit: ComputeUnit) throws -> Kept {
    if let kept, kept.bundle == bundle, kept.unit == unit { return kept }
    kept = nil  // before the next is opened: their memory must not add up
    let backend = try bundle.backend(among: provider.backends)
    try MemoryCheck(bundle, backend: backend, availableBytes: availableBytes()).require(bundle)
    let events = EventRelay()
    let networks = try BundleNetworks(bundle, loader: try provider.loader(backend: backend, unit: unit)) {
      events.target?(.opening(component: $0.name))
    }
    let opened = Kept(bundle: bundle, unit: unit, networks: networks, events: events)
    kept = opened
    return opened
  }
}

/// Whom the networks tell that they are being opened: the drawing under way.
private final class EventRelay {
  var target: ((DrawEvent) -> Void)?
}
