import Foundation

/// The ziggurat of 256 strips that NumPy draws float32 normals from (Marsaglia and Tsang 2000).
struct Ziggurat: Sendable {
  static let standard = Ziggurat()

  static let tailStart = 3.6541528853610087963519472518  // where the tail begins
  private static let area = 0.00492867323397465524494  // of each strip
  private static let positions = Double(1 << 23)  // of a point in a strip

  let inside: [UInt32]  // positions below which a point lies under the curve, by strip
  let scale: [Float]  // from position to x
  let height: [Float]  // of the curve at the strip's edge
  let exactScale: [Double]
  let exactHeight: [Double]

  private init() {
    let edges = Self.edges()
    inside = (0..<256).map { Self.positionsInside(strip: $0, edges) }
    // Strip 0 is the base, as wide as its area asks.
    exactScale = (0..<256).map { strip in edges[strip == 0 ? 256 : strip] / Self.positions }
    exactHeight = (0..<256).map { strip in strip == 0 ? 1 : Self.density(edges[strip]) }
    scale = exactScale.map { Float($0) }
    height = exactHeight.map { Float($0) }
  }

  private static func positionsInside(strip: Int, _ edges: [Double]) -> UInt32 {
    switch strip {
    case 0: UInt32(edges[255] / edges[256] * positions)
    case 1: 0  // nothing of the topmost strip is surely inside
    default: UInt32(edges[strip - 1] / edges[strip] * positions)
    }
  }

  /// The right edges of the strips: 255 is where the tail begins, 256 that of the base strip.
  private static func edges() -> [Double] {
    var x = [Double](repeating: 0, count: 257)
    x[256] = area / density(tailStart)
    x[255] = tailStart
    for i in stride(from: 254, through: 1, by: -1) {
      x[i] = (-2 * log(area / x[i + 1] + density(x[i + 1]))).squareRoot()
    }
    return x
  }

  private static func density(_ x: Double) -> Double { exp(-0.5 * x * x) }
}
