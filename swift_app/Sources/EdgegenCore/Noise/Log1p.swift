/// log(1 + x) for x in (-1, 0] as fdlibm computes it in float32 (Sun Microsystems, 1993).
///
/// NumPy calls the C library's log1pf for the tail of its normals, and C libraries round it differently, so the same
/// seed would give other noise elsewhere. This equals glibc's up to 2.40, whose NumPy wrote tests/vectors/noise.json,
/// for each of the 2^24 arguments that occur.
enum Log1p {
  static func value(_ x: Float) -> Float {
    if x > -0x1p-29 { return x - x * x * 0.5 }
    if x > reductionLimit { return series(x, hasTinyArgument: false, power: 0, correction: 0) }
    return reduced(x)
  }

  private static let reductionLimit = Float(bitPattern: 0xBE95_F61F)  // -0.2929, sqrt(1/2) - 1
  private static let rootTwo: UInt32 = 0x35_04F7  // mantissa of sqrt(2)
  private static let ln2High = Float(bitPattern: 0x3F31_7180)
  private static let ln2Low = Float(bitPattern: 0x3717_F7D1)

  /// log of 1 + x = 2^k (1 + f), with 1 + f between sqrt(1/2) and sqrt(2).
  private static func reduced(_ x: Float) -> Float {
    let sum = 1 + x
    var power = Int(sum.bitPattern >> 23) - 127
    let lost = (power > 0 ? 1 - (sum - x) : x - (sum - 1)) / sum  // what rounding took from the sum
    let mantissa = sum.bitPattern & 0x7F_FFFF
    if mantissa < rootTwo {
      let f = Float(bitPattern: mantissa | 0x3F80_0000) - 1
      return series(f, hasTinyArgument: mantissa == 0, power: Float(power), correction: lost)
    }
    power += 1
    let f = Float(bitPattern: mantissa | 0x3F00_0000) - 1
    return series(f, hasTinyArgument: (0x80_0000 - mantissa) >> 2 == 0, power: Float(power), correction: lost)
  }

  private static func series(_ f: Float, hasTinyArgument: Bool, power k: Float, correction: Float) -> Float {
    let half = 0.5 * f * f
    let low = k * ln2Low + correction
    if hasTinyArgument {
      if f == 0 { return k * ln2High + low }
      let rest = half * (1 - 0.6666666666 * f)
      return k == 0 ? f - rest : k * ln2High - ((rest - low) - f)
    }
    let s = f / (2 + f)
    let rest = polynomial(s * s)
    return k == 0 ? f - (half - s * (half + rest)) : k * ln2High - ((half - (s * (half + rest) + low)) - f)
  }

  /// log(1 + f) - f + f^2 / 2 over s, by Remez: coefficients near 2/3, 2/5, 2/7 ...
  private static func polynomial(_ z: Float) -> Float {
    coefficients.reversed().reduce(0) { z * ($0 + $1) }
  }

  private static let coefficients: [Float] = [
    0x3F2A_AAAB, 0x3ECC_CCCD, 0x3E92_4925, 0x3E63_8E29, 0x3E3A_3325, 0x3E1C_D04F, 0x3E17_8897,
  ].map { Float(bitPattern: $0) }
}
