/// An 8-bit RGB picture, rows from the top, three bytes a pixel.
public struct Picture: Equatable, Sendable {
  public let width: Int
  public let height: Int
  public let rgb: [UInt8]

  public init(width: Int, height: Int, rgb: [UInt8]) {
    precondition(rgb.count == 3 * width * height, "\(rgb.count) bytes do not fill \(width) x \(height)")
    self.width = width
    self.height = height
    self.rgb = rgb
  }

  /// From a decoder's values (3, H, W) in [0, 1]: cut to that range, halves to even.
  public init(_ values: [Float], width: Int, height: Int) {
    let area = width * height
    var rgb = [UInt8](repeating: 0, count: 3 * area)
    for channel in 0..<3 {
      for at in 0..<area { rgb[3 * at + channel] = Self.pixel(values[channel * area + at]) }
    }
    self.init(width: width, height: height, rgb: rgb)
  }

  static func pixel(_ value: Float) -> UInt8 {
    guard value == value else { return 0 }
    return UInt8((min(max(value, 0), 1) * 255).rounded(.toNearestOrEven))
  }
}
