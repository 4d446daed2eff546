/// PCG XSL RR 128/64, NumPy's default bit generator (O'Neill 2014), seeded as `numpy.random.PCG64(seed)`.
struct PCG64 {
  private static let multiplier = Wide(high: 2_549_297_995_355_413_924, low: 4_865_540_595_714_422_341)

  private var state = Wide(high: 0, low: 0)
  private let increment: Wide
  private var upperHalf: UInt32?  // of the last 64 bits, which the next 32 are taken from

  init(seed: UInt64) {
    let words = SeedSequence(seed: seed).words(4)
    increment = Wide(high: words[2] << 1 | words[3] >> 63, low: words[3] << 1 | 1)
    step()
    state = state + Wide(high: words[0], low: words[1])
    step()
  }

  mutating func nextUInt64() -> UInt64 {
    step()
    let folded = state.high ^ state.low
    let turn = state.high >> 58
    return folded >> turn | folded << ((64 - turn) & 63)
  }

  mutating func nextUInt32() -> UInt32 {
    if let half = upperHalf {
      upperHalf = nil
      return half
    }
    let both = nextUInt64()
    upperHalf = UInt32(truncatingIfNeeded: both >> 32)
    return UInt32(truncatingIfNeeded: both)
  }

  /// Uniform in [0, 1), of 24 bits.
  mutating func nextFloat() -> Float {
    Float(nextUInt32() >> 8) * (1 / 16_777_216)
  }

  private mutating func step() { state = state * Self.multiplier + increment }
}

/// A whole number of 128 bits that wraps around; Swift's own needs iOS 18.
private struct Wide {
  let high: UInt64
  let low: UInt64

  static func + (a: Wide, b: Wide) -> Wide {
    let (low, carry) = a.low.addingReportingOverflow(b.low)
    return Wide(high: a.high &+ b.high &+ (carry ? 1 : 0), low: low)
  }

  static func * (a: Wide, b: Wide) -> Wide {
    let product = a.low.multipliedFullWidth(by: b.low)
    return Wide(high: product.high &+ a.high &* b.low &+ a.low &* b.high, low: product.low)
  }
}
