import Foundation

/// Standard normal noise, the same for a seed as NumPy's `Generator(PCG64(seed)).standard_normal(shape, float32)`.
public enum Noise {
  public static let maxSeed = UInt64(Int64.max)

  /// Noise of a shape; a seed above 2^63 - 1 is an error.
  public static func standardNormal(shape: [Int], seed: UInt64) throws -> Tensor {
    guard seed <= maxSeed else {
      throw EdgegenError(.badInput, "seed \(seed) is outside 0 to \(maxSeed).")
    }
    return Tensor(shape: shape, values: values(count: shape.reduce(1, *), seed: seed))
  }

  static func values(count: Int, seed: UInt64) -> [Float] {
    var bits = PCG64(seed: seed)
    return (0..<count).map { _ in next(&bits) }
  }

  private static func next(_ bits: inout PCG64) -> Float {
    let ziggurat = Ziggurat.standard
    while true {
      let drawn = bits.nextUInt32()
      let strip = Int(drawn & 0xFF), position = drawn >> 9 & 0x7F_FFFF
      let size = Float(position) * ziggurat.scale[strip]
      let x = drawn >> 8 & 1 == 1 ? -size : size
      if position < ziggurat.inside[strip] { return x }
      if strip == 0 { return tail(&bits, isNegative: position >> 8 & 1 == 1) }
      let (low, high) = (ziggurat.height[strip], ziggurat.height[strip - 1])
      if (high - low) * bits.nextFloat() + low < Float(exp(-0.5 * Double(x) * Double(x))) { return x }
    }
  }

  /// Beyond the last strip, by Marsaglia's method.
  private static func tail(_ bits: inout PCG64, isNegative: Bool) -> Float {
    let start = Float(Ziggurat.tailStart), inverse: Float = 0.27366123732975828
    while true {
      let x = -inverse * Log1p.value(-bits.nextFloat())
      let y = -Log1p.value(-bits.nextFloat())
      if y + y > x * x { return isNegative ? -(start + x) : start + x }
    }
  }
}
