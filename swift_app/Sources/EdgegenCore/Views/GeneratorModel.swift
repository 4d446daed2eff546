import Foundation
import Observation

/// The state of the screen on which pictures are drawn.
@MainActor @Observable
public final class GeneratorModel {
  public enum Phase: Equatable, Sendable {
    case idle
    case opening(component: String)
    case drawing(step: Int, of: Int)
    case decoding
    case stopping
  }

  public var prompt = ""
  public var seed: UInt64
  public var keepsSeed = false
  public var wantsPreviews = true

  public private(set) var phase = Phase.idle
  public private(set) var preview: Picture?
  public private(set) var drawing: Drawing?
  public private(set) var error: EdgegenError?

  private var bundle: ModelBundle?  // that drew the picture
  private let drawer: any PictureDrawing
  private let onDrawn: (Drawing, ModelBundle) -> Void
  private let nextSeed: () -> UInt64
  private var task: Task<Void, Never>?

  /// `onDrawn` is given each picture that was drawn to its end.
  public init(
    _ drawer: any PictureDrawing, nextSeed: @escaping () -> UInt64 = { UInt64.random(in: 0...Noise.maxSeed) },
    onDrawn: @escaping (Drawing, ModelBundle) -> Void = { _, _ in }
  ) {
    self.drawer = drawer
    self.nextSeed = nextSeed
    self.onDrawn = onDrawn
    seed = nextSeed()
  }

  /// The picture as a PNG file that carries what it takes to draw it again.
  public var png: Data? {
    guard let drawing, let bundle else { return nil }
    return drawing.png(bundle: bundle)
  }

  public var isRunning: Bool { phase != .idle }
  public var canGenerate: Bool { !isRunning && !prompt.allSatisfy(\.isWhitespace) }

  /// Draws the prompt; does nothing while a picture is being drawn. The seed shown is the one that was used; the next
  /// picture takes another unless `keepsSeed`.
  public func generate(with bundle: ModelBundle, unit: ComputeUnit) {
    guard canGenerate else { return }
    if drawing != nil && !keepsSeed { seed = nextSeed() }
    (preview, drawing, error) = (nil, nil, nil)
    phase = .opening(component: "")
    let request = DrawRequest(prompt: prompt, seed: seed, wantsPreviews: wantsPreviews)
    task = Task { await self.run(request, bundle, unit) }
  }

  /// Stops after the step under way.
  public func stop() {
    guard isRunning else { return }
    phase = .stopping
    task?.cancel()
  }

  /// Takes prompt and seed of an earlier picture, to draw it again.
  public func reuse(_ entry: HistoryEntry) {
    guard !isRunning else { return }
    (prompt, seed, keepsSeed) = (entry.prompt, entry.seed, true)
  }

  /// Waits until nothing is being drawn.
  public func finish() async { await task?.value }

  private func run(_ request: DrawRequest, _ bundle: ModelBundle, _ unit: ComputeUnit) async {
    let (events, sender) = AsyncStream.makeStream(of: DrawEvent.self)
    let listener = Task { for await event in events { self.note(event) } }
    let result = await Result.of { [drawer] in
      try await drawer.draw(request, with: bundle, unit: unit) { sender.yield($0) }
    }
    sender.finish()
    await listener.value
    end(result, bundle)
  }

  private func note(_ event: DrawEvent) {
    if case .stepped(_, _, let picture?) = event { preview = picture }
    guard phase != .stopping else { return }
    switch event {
    case .opening(let component): phase = .opening(component: component)
    case .stepped(let index, let count, _): phase = .drawing(step: index, of: count)
    case .decoding: phase = .decoding
    }
  }

  private func end(_ result: Result<Drawing, any Error>, _ bundle: ModelBundle) {
    phase = .idle
    switch result {
    case .success(let drawn):
      (drawing, self.bundle) = (drawn, bundle)
      preview = nil
      onDrawn(drawn, bundle)
    case .failure(let failure):
      error = failure is CancellationError ? nil : EdgegenError.of(failure)
    }
  }
}

extension Result where Success: Sendable, Failure == any Error {
  /// What an asynchronous call gave or threw.
  static func of(_ call: @Sendable () async throws -> Success) async -> Self {
    do { return .success(try await call()) } catch { return .failure(error) }
  }
}

extension EdgegenError {
  /// Any error as one of ours.
  static func of(_ error: any Error) -> EdgegenError {
    error as? EdgegenError ?? EdgegenError(.runtime, error.localizedDescription)
  }
}
