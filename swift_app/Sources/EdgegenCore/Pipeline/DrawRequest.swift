/// A picture to draw; what is nil is the bundle's own.
public struct DrawRequest: Equatable, Sendable {
  public var prompt: String
  public var seed: UInt64
  public var steps: Int?
  public var guidance: Double?
  public var wantsPreviews: Bool

  public init(prompt: String, seed: UInt64 = 0, steps: Int? = nil, guidance: Double? = nil, wantsPreviews: Bool = false)
  {
    self.prompt = prompt
    self.seed = seed
    self.steps = steps
    self.guidance = guidance
    self.wantsPreviews = wantsPreviews
  }

  /// The noise levels: the manifest's own, or for another number of steps those of its shift.
  func sigmas(_ manifest: Manifest) throws -> [Double] {
    let count = steps ?? manifest.steps
    guard (1...ManifestChecks.stepsLimit).contains(count) else {
      throw EdgegenError(.badInput, "steps \(count) is outside 1 to \(ManifestChecks.stepsLimit).")
    }
    return count == manifest.steps ? manifest.sigmas : Sampler.sigmas(steps: count, shift: manifest.shift)
  }

  func guidance(_ manifest: Manifest) throws -> Double {
    let value = guidance ?? manifest.guidance
    guard value >= 0, value < ManifestChecks.guidanceLimit else {
      throw EdgegenError(.badInput, "guidance \(value) is outside 0 to \(ManifestChecks.guidanceLimit).")
    }
    return value
  }
}
