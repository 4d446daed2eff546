#if canImport(CoreML)
  import CoreML
  import EdgegenCore
  import Foundation

  /// Tensors as Core ML's arrays and back: one pass over the elements each way, right in the arrays' own memory.
  enum MultiArrays {
    /// An array of the manifest's type and shape with a tensor's elements.
    static func array(of tensor: Tensor, _ spec: TensorSpec) throws -> MLMultiArray {
      guard tensor.shape == spec.shape else {
        throw EdgegenError(.badShape, "input \(spec.name) is \(tensor.shape), the model takes \(spec.shape).")
      }
      let array = try MLMultiArray(shape: spec.shape.map { NSNumber(value: $0) }, dataType: try type(of: spec))
      array.withUnsafeMutableBytes { bytes, strides in
        let offsets = StridedOffsets(shape: spec.shape, strides: strides)
        switch spec.dtype {
        case "int32": offsets.write(tensor.ids, to: bytes)
        case "float16": offsets.write(tensor.values.lazy.map(Half.bits), to: bytes)
        default: offsets.write(tensor.values, to: bytes)
        }
      }
      return array
    }

    /// The elements of an array as float32; another shape than the manifest's is an error.
    static func tensor(of array: MLMultiArray, _ spec: TensorSpec) throws -> Tensor {
      let shape = array.shape.map(\.intValue)
      guard shape == spec.shape else {
        throw EdgegenError(
          .badShape, "output \(spec.name) is \(shape), the manifest says \(spec.shape).", "Export the bundle again.")
      }
      let offsets = StridedOffsets(shape: shape, strides: array.strides.map(\.intValue))
      let values = array.withUnsafeBytes { bytes -> [Float] in
        switch array.dataType {
        case .float16: offsets.read(UInt16.self, from: bytes).map(Half.value)
        case .double: offsets.read(Double.self, from: bytes).map { Float($0) }
        case .int32: offsets.read(Int32.self, from: bytes).map { Float($0) }
        default: offsets.read(Float.self, from: bytes)
        }
      }
      return Tensor(shape: shape, values: values)
    }

    private static func type(of spec: TensorSpec) throws -> MLMultiArrayDataType {
      switch spec.dtype {
      case "float16": return .float16
      case "float32": return .float32
      case "int32": return .int32
      default:
        throw EdgegenError(
          .badField, "\(spec.name) is of type \(spec.dtype), which Core ML has not.", "Update the app.")
      }
    }
  }
#endif
