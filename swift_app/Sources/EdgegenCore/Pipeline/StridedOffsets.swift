/// Where the elements of an array lie, in elements from its start, row by row: rows may be followed by padding.
public struct StridedOffsets: Sequence {
  private let shape: [Int]
  private let strides: [Int]

  public init(shape: [Int], strides: [Int]) {
    self.shape = shape
    self.strides = strides
  }

  public func makeIterator() -> AnyIterator<Int> {
    let width = shape.last ?? 1, step = strides.last ?? 1, rows = shape.dropLast().reduce(1, *)
    var row = 0, column = 0, start = 0
    return AnyIterator {
      if column == width {
        (row, column) = (row + 1, 0)
        start = self.start(ofRow: row)
      }
      guard row < rows, width > 0 else { return nil }
      defer { column += 1 }
      return start + column * step
    }
  }

  /// Writes elements to where they lie in an array's memory.
  public func write<Elements: Sequence>(_ elements: Elements, to bytes: UnsafeMutableRawBufferPointer) {
    let target = bytes.bindMemory(to: Elements.Element.self)
    for (element, offset) in zip(elements, self) { target[offset] = element }
  }

  /// Reads the elements of an array's memory in order.
  public func read<Element>(_ type: Element.Type, from bytes: UnsafeRawBufferPointer) -> [Element] {
    let source = bytes.bindMemory(to: type)
    return map { source[$0] }
  }

  private func start(ofRow row: Int) -> Int {
    var rest = row, start = 0
    for (side, stride) in zip(shape.dropLast(), strides.dropLast()).reversed() {
      start += rest % side * stride
      rest /= side
    }
    return start
  }
}
