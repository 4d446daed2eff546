import Foundation
import Testing

@testable import EdgegenCore

struct NoiseTests {
  private struct Case: Decodable, CustomTestStringConvertible {
    let seed: String
    let count: Int
    let first: [String]
    let sha256: String
    var testDescription: String { "seed \(seed)" }
  }

  private struct File: Decodable { let cases: [Case] }
  private static let cases = Vectors.read("noise", as: File.self).cases

  @Test(arguments: cases)
  private func noiseIsNumPys(_ expected: Case) throws {
    let noise = try Noise.standardNormal(shape: [1, expected.count], seed: UInt64(expected.seed)!)
    #expect(Array(noise.values.prefix(expected.first.count)) == expected.first.map(Vectors.float))
    #expect(Vectors.sha256(noise.values) == expected.sha256)
  }

  @Test func aSeedBeyondTheLimitIsRefused() {
    expectError(.badInput) { _ = try Noise.standardNormal(shape: [1], seed: Noise.maxSeed + 1) }
  }

  /// The tables are computed by the system's own exp and log. Were an entry close to where rounding to float32 turns,
  /// another system's last digit could turn it; none is within 1000 units of the last place of float64.
  @Test func tablesStandClearOfRounding() {
    let ziggurat = Ziggurat.standard
    for exact in ziggurat.exactScale + ziggurat.exactHeight {
      let reach = 1000 * exact.ulp
      #expect(Float(exact - reach) == Float(exact + reach))
    }
  }
}

struct SamplerTests {
  private struct SigmaCase: Decodable, CustomTestStringConvertible {
    let steps: Int
    let shift: Double
    let sha256: String
    let sigmas: [Double]?
    var testDescription: String { "\(steps) steps at shift \(shift)" }
  }

  private struct FeatureCase: Decodable, CustomTestStringConvertible {
    let sigma: Double
    let size: Int
    let features: [String]
    var testDescription: String { "sigma \(sigma), \(size) features" }
  }

  private struct FeatureFile: Decodable {
    let scale: Double
    let max_period: Double
    let cases: [FeatureCase]
  }

  private struct GuidanceCase: Decodable, CustomTestStringConvertible {
    let guidance: Double
    let conditional, unconditional, guided: [String]
    var testDescription: String { "guidance \(guidance)" }
  }

  private struct EulerCase: Decodable, CustomTestStringConvertible {
    let sigmas: [Double]
    let noise: [String]
    let velocities, latents, predicted: [[String]]
    var testDescription: String { "\(sigmas.count - 1) steps" }
  }

  private struct File<Case: Decodable>: Decodable { let cases: [Case] }

  @Test(arguments: Vectors.read("sigmas", as: File<SigmaCase>.self).cases)
  private func sigmasAreEdgegens(_ expected: SigmaCase) {
    let sigmas = Sampler.sigmas(steps: expected.steps, shift: expected.shift)
    if let values = expected.sigmas { #expect(sigmas == values) }
    #expect(Vectors.sha256(sigmas) == expected.sha256)
  }

  private static let featureFile = Vectors.read("features", as: FeatureFile.self)

  @Test(arguments: featureFile.cases)
  private func featuresAreEdgegens(_ expected: FeatureCase) {
    let file = Self.featureFile
    let definition = TimestepFeatures(
      size: expected.size, scale: file.scale, maxPeriod: file.max_period, order: "cos,sin")
    let found = Sampler.features(sigma: expected.sigma, definition)
    #expect(found.shape == [1, expected.size, 1, 1])
    for (value, bits) in zip(found.values, expected.features) {
      let wanted = Vectors.float(bits)
      #expect(abs(value - wanted) <= wanted.ulp)
    }
  }

  @Test(arguments: Vectors.read("guidance", as: File<GuidanceCase>.self).cases)
  private func guidanceIsEdgegens(_ expected: GuidanceCase) {
    let guided = Sampler.guide(
      expected.conditional.map(Vectors.float), expected.unconditional.map(Vectors.float), guidance: expected.guidance)
    #expect(guided == expected.guided.map(Vectors.float))
  }

  @Test(arguments: Vectors.read("euler", as: File<EulerCase>.self).cases)
  private func stepsAreEdgegens(_ expected: EulerCase) {
    var latent = expected.noise.map(Vectors.float)
    for (index, velocity) in expected.velocities.enumerated() {
      let step = Sampler.step(
        latent, velocity: velocity.map(Vectors.float), from: expected.sigmas[index], to: expected.sigmas[index + 1])
      #expect(step.latent == expected.latents[index].map(Vectors.float))
      #expect(step.predicted == expected.predicted[index].map(Vectors.float))
      latent = step.latent
    }
    #expect(expected.velocities.count == expected.sigmas.count - 1)
  }
}

struct PictureTests {
  private struct File: Decodable {
    let values: [String]
    let pixels: [UInt8]
  }

  @Test func pixelsAreEdgegens() {
    let file = Vectors.read("pixels", as: File.self)
    #expect(file.values.map { Picture.pixel(Vectors.float($0)) } == file.pixels)
    #expect(!file.pixels.isEmpty)
  }

  @Test func channelsBecomePixels() {
    let picture = Picture([0, 0.2, 1, 0.4, 0, 0.6], width: 2, height: 1)
    #expect(picture.rgb == [0, 255, 0, 51, 102, 153])
  }
}
