import Foundation

/// SHA-256 (FIPS 180-4) of bytes that arrive in pieces.
public struct Sha256 {
  private var state = Sha256.initial
  private var pending: [UInt8] = []  // fewer than a block
  private var count: UInt64 = 0  // bytes seen

  public init() {}

  /// The digest of bytes at hand, in lower-case hexadecimal.
  public static func hex(of bytes: some Sequence<UInt8>) -> String {
    var sha = Sha256()
    sha.update(Array(bytes))
    return sha.hexDigest()
  }

  /// Takes the next bytes of the message.
  public mutating func update(_ bytes: [UInt8]) {
    count += UInt64(bytes.count)
    let message = pending.isEmpty ? bytes : pending + bytes
    let whole = message.count - message.count % Self.block
    message.withUnsafeBufferPointer { buffer in
      for start in stride(from: 0, to: whole, by: Self.block) { compress(buffer, at: start) }
    }
    pending = Array(message[whole...])
  }

  /// Ends the message: its digest in lower-case hexadecimal.
  public mutating func hexDigest() -> String {
    let bits = count * 8
    let zeros = (Self.block + 55 - pending.count) % Self.block
    update(
      [0x80] + [UInt8](repeating: 0, count: zeros) + (0..<8).map { UInt8(truncatingIfNeeded: bits >> (56 - 8 * $0)) })
    return state.map { word in
      let digits = String(word, radix: 16)
      return String(repeating: "0", count: 8 - digits.count) + digits
    }.joined()
  }

  private mutating func compress(_ message: UnsafeBufferPointer<UInt8>, at start: Int) {
    withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 64) { schedule in
      expand(message, at: start, into: schedule)
      let rounded = rounds(schedule)
      for i in 0..<8 { state[i] &+= rounded[i] }
    }
  }

  /// The message schedule of a block: its 16 words, and 48 made of them.
  private func expand(_ message: UnsafeBufferPointer<UInt8>, at start: Int, into w: UnsafeMutableBufferPointer<UInt32>)
  {
    for i in 0..<16 {
      let at = start &+ 4 &* i
      w[i] =
        UInt32(message[at]) << 24 | UInt32(message[at &+ 1]) << 16 | UInt32(message[at &+ 2]) << 8
        | UInt32(message[at &+ 3])
    }
    for i in 16..<64 {
      let a = w[i &- 15], b = w[i &- 2]
      let small0 = (a >> 7 | a << 25) ^ (a >> 18 | a << 14) ^ (a >> 3)
      let small1 = (b >> 17 | b << 15) ^ (b >> 19 | b << 13) ^ (b >> 10)
      w[i] = w[i &- 16] &+ small0 &+ w[i &- 7] &+ small1
    }
  }

  private func rounds(_ w: UnsafeMutableBufferPointer<UInt32>) -> [UInt32] {
    var (a, b, c, d) = (state[0], state[1], state[2], state[3])
    var (e, f, g, h) = (state[4], state[5], state[6], state[7])
    Self.constants.withUnsafeBufferPointer { k in
      for i in 0..<64 {
        let big1 = (e >> 6 | e << 26) ^ (e >> 11 | e << 21) ^ (e >> 25 | e << 7)
        let first = h &+ big1 &+ (e & f ^ ~e & g) &+ k[i] &+ w[i]
        let big0 = (a >> 2 | a << 30) ^ (a >> 13 | a << 19) ^ (a >> 22 | a << 10)
        let second = big0 &+ (a & b ^ a & c ^ b & c)
        h = g
        g = f
        f = e
        e = d &+ first
        d = c
        c = b
        b = a
        a = first &+ second
      }
    }
    return [a, b, c, d, e, f, g, h]
  }

  private static let block = 64

  /// The first 32 bits of the fractions of the square roots of the first 8 primes.
  private static let initial: [UInt32] = [
    0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
  ]

  /// The first 32 bits of the fractions of the cube roots of the first 64 primes.
  private static let constants: [UInt32] = primes(64).map { fraction(ofCubeRoot: $0) }

  private static func primes(_ count: Int) -> [UInt64] {
    var found: [UInt64] = []
    var candidate: UInt64 = 2
    while found.count < count {
      if found.allSatisfy({ candidate % $0 != 0 }) { found.append(candidate) }
      candidate += 1
    }
    return found
  }

  /// floor(2^32 p^(1/3)) modulo 2^32, by bisection over whole numbers: r^3 <= 2^96 p.
  private static func fraction(ofCubeRoot p: UInt64) -> UInt32 {
    var low: UInt64 = 0, high: UInt64 = 7 << 32  // the cube root of the 64th prime, 311, is below 7
    while high - low > 1 {
      let middle = (low + high) / 2
      if cube(middle, isAtMost: p) { low = middle } else { high = middle }
    }
    return UInt32(truncatingIfNeeded: low)
  }

  /// Whether r^3 <= 2^96 p, for r below 2^35.
  private static func cube(_ r: UInt64, isAtMost p: UInt64) -> Bool {
    let square = r.multipliedFullWidth(by: r)
    let low = square.low.multipliedFullWidth(by: r)
    let (middle, carry) = low.high.addingReportingOverflow(square.high &* r)
    let limit = p << 32  // of the two upper words, 2^64 each
    return !carry && (middle < limit || (middle == limit && low.low == 0))
  }
}
