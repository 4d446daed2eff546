/// IEEE 754 half precision by its bits; Swift's Float16 is missing on Intel Macs.
public enum Half {
  /// The nearest half, ties to even; what is too large becomes infinite.
  public static func bits(_ value: Float) -> UInt16 {
    let word = value.bitPattern
    let sign = UInt16(truncatingIfNeeded: word >> 16) & 0x8000
    let exponent = Int(word >> 23 & 0xFF) - 127 + 15
    let mantissa = word & 0x7F_FFFF
    if word & 0x7FFF_FFFF > 0x7F80_0000 { return sign | 0x7E00 }  // not a number
    if exponent >= 31 { return sign | 0x7C00 }
    if exponent > 0 { return sign | rounded(UInt32(exponent) << 23 | mantissa, droppedBits: 13) }
    if exponent < -10 { return sign }
    return sign | rounded(mantissa | 0x80_0000, droppedBits: UInt32(14 - exponent))  // subnormal
  }

  /// The value of a half.
  public static func value(_ bits: UInt16) -> Float {
    let sign = UInt32(bits & 0x8000) << 16, exponent = UInt32(bits >> 10 & 0x1F), mantissa = UInt32(bits & 0x3FF)
    switch exponent {
    case 0: return (sign == 0 ? 1 : -1) * Float(mantissa) * 0x1p-24
    case 31: return Float(bitPattern: sign | 0x7F80_0000 | mantissa << 13)
    default: return Float(bitPattern: sign | (exponent + 112) << 23 | mantissa << 13)
    }
  }

  /// A number without its last bits, rounded to nearest, ties to even; a carry runs into the exponent, as it should.
  private static func rounded(_ value: UInt32, droppedBits: UInt32) -> UInt16 {
    let kept = value >> droppedBits
    let half = UInt32(1) << (droppedBits - 1), rest = value & ((half << 1) - 1)
    let isUp = rest > half || (rest == half && kept & 1 == 1)
    return UInt16(truncatingIfNeeded: kept + (isUp ? 1 : 0))
  }
}
