/// An array with a shape, row-major, of float32 values or of int32 ids.
public struct Tensor: Equatable, Sendable {
  public enum Elements: Equatable, Sendable {
    case float32([Float])
    case int32([Int32])
  }

  public let shape: [Int]
  public let elements: Elements

  public init(shape: [Int], values: [Float]) {
    precondition(values.count == shape.reduce(1, *), "\(values.count) values do not fill \(shape)")
    self.shape = shape
    elements = .float32(values)
  }

  public init(shape: [Int], ids: [Int32]) {
    precondition(ids.count == shape.reduce(1, *), "\(ids.count) ids do not fill \(shape)")
    self.shape = shape
    elements = .int32(ids)
  }

  /// The values as float32; ids are converted.
  public var values: [Float] {
    switch elements {
    case .float32(let values): values
    case .int32(let ids): ids.map(Float.init)
    }
  }

  /// The ids; values are rounded toward zero.
  public var ids: [Int32] {
    switch elements {
    case .float32(let values): values.map { Int32($0) }
    case .int32(let ids): ids
    }
  }
}

extension Tensor {
  /// sha256 of the values as float32, little end first.
  public var sha256: String {
    Sha256.hex(of: values.flatMap { value in (0..<4).map { UInt8(truncatingIfNeeded: value.bitPattern >> (8 * $0)) } })
  }
}
