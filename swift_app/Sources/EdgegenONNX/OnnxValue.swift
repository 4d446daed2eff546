import COnnxRuntime
import EdgegenCore
import Foundation

/// A tensor in ONNX Runtime's hands.
final class OnnxValue {
  let pointer: OpaquePointer
  private let library: OnnxLibrary
  private let storage: UnsafeMutableRawBufferPointer?  // of a value that we made

  /// Copies a tensor.
  init(_ tensor: Tensor, _ library: OnnxLibrary) throws {
    let (storage, type) = Self.copied(tensor)
    let shape = tensor.shape.map(Int64.init)
    self.library = library
    self.storage = storage
    do {
      pointer = try library.made {
        library.api.CreateTensorWithDataAsOrtValue(
          library.memory, storage.baseAddress, storage.count, shape, shape.count, type, $0)
      }
    } catch {
      storage.deallocate()
      throw error
    }
  }

  /// Takes over a value that ONNX Runtime made.
  init(_ pointer: OpaquePointer, _ library: OnnxLibrary) {
    self.pointer = pointer
    self.library = library
    storage = nil
  }

  deinit {
    library.api.ReleaseValue(pointer)
    storage?.deallocate()
  }

  /// The values as float32 in the shape the manifest says; another number or type of them is an error.
  func tensor(of spec: TensorSpec) throws -> Tensor {
    let info = try library.made { library.api.GetTensorTypeAndShape(pointer, $0) }
    defer { library.api.ReleaseTensorTypeAndShapeInfo(info) }
    var count = 0, type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED
    try library.check(library.api.GetTensorShapeElementCount(info, &count))
    try library.check(library.api.GetTensorElementType(info, &type))
    guard count == spec.shape.reduce(1, *), type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT else {
      throw EdgegenError(
        .badShape, "output \(spec.name) has \(count) values of type \(type.rawValue), the manifest says \(spec.shape).",
        "Export the bundle again.")
    }
    var data: UnsafeMutableRawPointer?
    try library.check(library.api.GetTensorMutableData(pointer, &data))
    guard let floats = data?.assumingMemoryBound(to: Float.self) else {
      throw EdgegenError(.runtime, "output \(spec.name) has no data.")
    }
    return Tensor(shape: spec.shape, values: Array(UnsafeBufferPointer(start: floats, count: count)))
  }

  private static func copied(_ tensor: Tensor) -> (UnsafeMutableRawBufferPointer, ONNXTensorElementDataType) {
    switch tensor.elements {
    case .float32(let values): (copied(values), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
    case .int32(let ids): (copied(ids), ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32)
    }
  }

  private static func copied<Element>(_ elements: [Element]) -> UnsafeMutableRawBufferPointer {
    let bytes = elements.count * MemoryLayout<Element>.stride
    let storage = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes, alignment: 16)
    elements.withUnsafeBytes { storage.copyMemory(from: $0) }
    return storage
  }
}
