/// NumPy's SeedSequence: a seed stirred into as many words as a generator wants (O'Neill's seed_seq, 2015).
struct SeedSequence {
  private static let poolSize = 4
  private static let initA: UInt32 = 0x43B0_D7E5
  private static let multiplierA: UInt32 = 0x931E_8875
  private static let initB: UInt32 = 0x8B51_F9DD
  private static let multiplierB: UInt32 = 0x58F3_8DED
  private static let mixLeft: UInt32 = 0xCA01_F9DD
  private static let mixRight: UInt32 = 0x4973_F715

  private var pool: [UInt32] = []
  private var hashConstant = initA

  init(seed: UInt64) {
    // A seed of 64 bits is two words at most, fewer than the pool holds.
    let entropy = [UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32), 0, 0]
    for word in entropy { pool.append(hash(word)) }
    for source in 0..<Self.poolSize {
      for target in 0..<Self.poolSize where source != target {
        pool[target] = Self.mix(pool[target], hash(pool[source]))
      }
    }
  }

  /// The first words of the state of a generator, each of 64 bits.
  func words(_ count: Int) -> [UInt64] {
    var constant = Self.initB
    let halves = (0..<2 * count).map { index -> UInt64 in
      var value = pool[index % Self.poolSize] ^ constant
      constant &*= Self.multiplierB
      value &*= constant
      return UInt64(value ^ value >> 16)
    }
    return (0..<count).map { halves[2 * $0] | halves[2 * $0 + 1] << 32 }
  }

  private mutating func hash(_ word: UInt32) -> UInt32 {
    var value = word ^ hashConstant
    hashConstant &*= Self.multiplierA
    value &*= hashConstant
    return value ^ value >> 16
  }

  private static func mix(_ x: UInt32, _ y: UInt32) -> UInt32 {
    let result = mixLeft &* x &- mixRight &* y
    return result ^ result >> 16
  }
}
