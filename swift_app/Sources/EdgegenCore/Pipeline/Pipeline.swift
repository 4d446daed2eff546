import Foundation

/// What happens while a picture is drawn.
public enum DrawEvent: Equatable, Sendable {
  /// A network is about to be opened; the first time takes long where a runtime compiles it.
  case opening(component: String)
  /// A step is done; `preview` is what it aims at, where that was asked for.
  case stepped(index: Int, of: Int, preview: Picture?)
  case decoding
}

/// A picture and how it came about.
public struct Drawing: Equatable, Sendable {
  public let picture: Picture
  public let prompt: String
  public let seed: UInt64
  public let steps: Int
  public let guidance: Double
  public let isTruncated: Bool  // the prompt was longer than the text encoders take
  public let seconds: Double
}

/// Text to picture: tokens, condition, Euler steps, decoder.
public struct Pipeline {
  private let networks: BundleNetworks
  private let tokenizers: Tokenizers
  private let freesTextEncoder: Bool

  /// `freesTextEncoder` keeps the text encoder's memory from adding to that of denoising.
  public init(_ networks: BundleNetworks, freesTextEncoder: Bool = true) throws {
    self.networks = networks
    tokenizers = try networks.bundle.tokenizers()
    self.freesTextEncoder = freesTextEncoder
  }

  /// Draws a picture. `onEvent` is told of each step; `isStopped` is asked before each and ends with CancellationError.
  public func draw(
    _ request: DrawRequest, isStopped: () -> Bool = { false }, onEvent: (DrawEvent) -> Void = { _ in }
  ) throws -> Drawing {
    let start = ContinuousClock.now, manifest = networks.bundle.manifest
    let sigmas = try request.sigmas(manifest), guidance = try request.guidance(manifest)
    let noise = try Noise.standardNormal(shape: manifest.latentShape, seed: request.seed)
    let ids = tokenizers.encode(request.prompt)
    let conditions = try conditions(ids, guidance: guidance)

    var latent = noise
    for (index, (sigma, next)) in zip(sigmas, sigmas.dropFirst()).enumerated() {
      if isStopped() { throw CancellationError() }
      let velocity = try velocity(latent, sigma, conditions, guidance)
      let step = Sampler.step(latent.values, velocity: velocity, from: sigma, to: next)
      latent = Tensor(shape: latent.shape, values: step.latent)
      try checkFinite(step.latent, after: index + 1, of: sigmas.count - 1)
      let isLast = index == sigmas.count - 2
      let preview = request.wantsPreviews && !isLast ? try decode(step.predicted) : nil
      onEvent(.stepped(index: index + 1, of: sigmas.count - 1, preview: preview))
    }
    if isStopped() { throw CancellationError() }
    onEvent(.decoding)
    let picture = try decode(latent.values)
    return Drawing(
      picture: picture, prompt: request.prompt, seed: request.seed, steps: sigmas.count - 1, guidance: guidance,
      isTruncated: ids.isTruncated, seconds: (ContinuousClock.now - start).seconds)
  }

  /// The condition of the prompt and, with guidance, of no prompt.
  private func conditions(_ ids: TokenIds, guidance: Double) throws -> [Condition] {
    let all = guidance == 1 ? [ids] : [ids, tokenizers.encode("")]
    let encoded = try all.map { try networks.encode($0) }
    if freesTextEncoder { networks.unload(.textEncoder) }
    return encoded
  }

  private func velocity(_ latent: Tensor, _ sigma: Double, _ conditions: [Condition], _ guidance: Double) throws
    -> [Float]
  {
    let conditional = try networks.velocity(latent, sigma: sigma, conditions[0])
    guard conditions.count > 1 else { return conditional }
    let unconditional = try networks.velocity(latent, sigma: sigma, conditions[1])
    return Sampler.guide(conditional, unconditional, guidance: guidance)
  }

  private func decode(_ latent: [Float]) throws -> Picture {
    let manifest = networks.bundle.manifest
    let values = try networks.decode(Tensor(shape: manifest.latentShape, values: latent))
    return Picture(values, width: manifest.resolution[0], height: manifest.resolution[1])
  }

  private func checkFinite(_ latent: [Float], after step: Int, of count: Int) throws {
    guard latent.allSatisfy(\.isFinite) else {
      throw EdgegenError(
        .notFinite, "the latent is not finite after step \(step) of \(count).",
        "Choose another compute unit, or run edgegen verify on this bundle.")
    }
  }
}

extension Duration {
  /// As a number of seconds.
  public var seconds: Double { Double(components.seconds) + Double(components.attoseconds) * 1e-18 }
}
