import Foundation

/// Flow-matching sampling, float32: a latent x = (1 - sigma) x0 + sigma noise; networks predict noise - x0.
public enum Sampler {
  /// steps + 1 noise levels from 1 to 0, shifted toward noise: 4 steps at shift 3 give 1, 0.9, 0.75, 0.5, 0.
  public static func sigmas(steps: Int, shift: Double) -> [Double] {
    let stride = -1 / Double(steps)
    return (0...steps).map { index in
      let even = index == steps ? 0 : Double(index) * stride + 1
      return shift * even / (1 + (shift - 1) * even)
    }
  }

  /// The transformer's input for a sigma, (1, F, 1, 1): cosines, then sines, of `scale sigma maxPeriod^(-i / (F/2))`.
  public static func features(sigma: Double, _ definition: TimestepFeatures) -> Tensor {
    let half = definition.size / 2, at = Double(Float(sigma))
    let angles = (0..<half).map { i in
      definition.scale * at * exp(-log(definition.maxPeriod) * Double(i) / Double(half))
    }
    let values = angles.map { Float(cos($0)) } + angles.map { Float(sin($0)) }
    return Tensor(shape: [1, definition.size, 1, 1], values: values)
  }

  /// Classifier-free guidance: away from the unconditional velocity.
  public static func guide(_ conditional: [Float], _ unconditional: [Float], guidance: Double) -> [Float] {
    zip(conditional, unconditional).map { $1 + Float(guidance) * ($0 - $1) }
  }

  /// One Euler step: the latent after it, and the x0 it aims at.
  public static func step(_ latent: [Float], velocity: [Float], from sigma: Double, to next: Double) -> (
    latent: [Float], predicted: [Float]
  ) {
    let aim = Float(sigma), move = Float(next - sigma)
    return (zip(latent, velocity).map { $0 + move * $1 }, zip(latent, velocity).map { $0 - aim * $1 })
  }
}
