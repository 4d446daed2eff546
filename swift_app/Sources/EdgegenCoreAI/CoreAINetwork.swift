#if canImport(CoreAI)
  import CoreAI
  import EdgegenCore
  import Foundation

  /// One Core AI asset that is open. Unexercised, see CoreAILoader.
  @available(iOS 27, macOS 27, *)
  final class CoreAINetwork: Network {
    private let component: Component
    private let function: InferenceFunction

    init(_ component: Component, _ function: InferenceFunction) {
      self.component = component
      self.function = function
    }

    func run(_ inputs: [String: Tensor]) throws -> [String: Tensor] {
      let (component, function) = (component, function)
      return try Waiting.result {
        var arrays: [String: NDArray] = [:]
        for spec in component.inputs { arrays[spec.name] = try Self.array(inputs[spec.name], spec, function) }
        var outputs = try await function.run(inputs: arrays)
        var tensors: [String: Tensor] = [:]
        for spec in component.outputs { tensors[spec.name] = try Self.tensor(outputs.remove(spec.name)?.ndArray, spec) }
        return tensors
      }
    }

    private static func array(_ tensor: Tensor?, _ spec: TensorSpec, _ function: InferenceFunction) throws -> NDArray {
      guard let tensor, case .ndArray(let descriptor)? = function.descriptor.inputDescriptor(of: spec.name) else {
        throw EdgegenError(.badShape, "input \(spec.name) is missing.", "Export the bundle again.")
      }
      var array = NDArray(descriptor: descriptor)
      array.mutableRawView().withUnsafeMutableBytes { pointer, shape, strides in
        let offsets = StridedOffsets(
          shape: (0..<shape.count).map { shape[$0] }, strides: (0..<strides.count).map { strides[$0] })
        switch spec.dtype {
        case "float16": offsets.write(tensor.values.lazy.map(Half.bits), to: pointer)
        case "int32": offsets.write(tensor.ids, to: pointer)
        default: offsets.write(tensor.values, to: pointer)
        }
      }
      return array
    }

    private static func tensor(_ array: NDArray?, _ spec: TensorSpec) throws -> Tensor {
      guard let array else {
        throw EdgegenError(.badShape, "output \(spec.name) is missing.", "Export the bundle again.")
      }
      let values = array.rawView().withUnsafeBytes { pointer, shape, strides -> [Float] in
        let offsets = StridedOffsets(
          shape: (0..<shape.count).map { shape[$0] }, strides: (0..<strides.count).map { strides[$0] })
        return array.scalarType == .float16
          ? offsets.read(UInt16.self, from: pointer).map(Half.value) : offsets.read(Float.self, from: pointer)
      }
      return Tensor(shape: spec.shape, values: values)
    }
  }
#endif
