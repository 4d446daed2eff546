#if canImport(CoreML)
  import CoreML
  import EdgegenCore
  import Foundation

  /// One Core ML model that is loaded.
  final class CoreMLNetwork: Network {
    private let component: Component
    private let compiled: URL
    private let onLoaded: (ComputeUnit) -> Void
    private var units: ArraySlice<ComputeUnit>  // the one in use, and what is left to fall back to
    private var model: MLModel
    private var kept: [String: KeptArray] = [:]

    private struct KeptArray {
      let tensor: Tensor
      let array: MLMultiArray
    }

    /// Loads on the first unit that takes the model; `onLoaded` is told which.
    init(_ component: Component, _ compiled: URL, units: [ComputeUnit], onLoaded: @escaping (ComputeUnit) -> Void)
      throws
    {
      self.component = component
      self.compiled = compiled
      self.onLoaded = onLoaded
      (model, self.units) = try Self.load(component, compiled, units[...], refusedBy: nil)
      onLoaded(self.units.first!)
    }

    /// Runs on the unit in use; one that refuses is left for the next for good.
    func run(_ inputs: [String: Tensor]) throws -> [String: Tensor] {
      let features = try MLDictionaryFeatureProvider(dictionary: try arrays(inputs))
      while true {
        do {
          return try tensors(try model.prediction(from: features))
        } catch let error as EdgegenError {
          throw error
        } catch {
          (model, units) = try Self.load(component, compiled, units.dropFirst(), refusedBy: error)
          onLoaded(units.first!)
        }
      }
    }

    private static func load(
      _ component: Component, _ compiled: URL, _ units: ArraySlice<ComputeUnit>, refusedBy reason: (any Error)?
    ) throws -> (MLModel, ArraySlice<ComputeUnit>) {
      var left = units, last = reason
      while let unit = left.first {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = unit.coreML
        do {
          return (try MLModel(contentsOf: compiled, configuration: configuration), left)
        } catch {
          last = error
          left = left.dropFirst()
        }
      }
      throw EdgegenError(
        .runtime, "\(component.name) runs on no compute unit: \(last?.localizedDescription ?? "none is left").",
        "Choose a smaller tier, or restart the device.")
    }

    /// The inputs as Core ML takes them; one that did not change since the last run is not written again.
    private func arrays(_ inputs: [String: Tensor]) throws -> [String: Any] {
      var arrays: [String: Any] = [:]
      for spec in component.inputs {
        guard let tensor = inputs[spec.name] else {
          throw EdgegenError(.badShape, "input \(spec.name) of \(component.name) is missing.")
        }
        if kept[spec.name]?.tensor != tensor {
          kept[spec.name] = KeptArray(tensor: tensor, array: try MultiArrays.array(of: tensor, spec))
        }
        arrays[spec.name] = kept[spec.name]?.array
      }
      return arrays
    }

    private func tensors(_ features: any MLFeatureProvider) throws -> [String: Tensor] {
      var tensors: [String: Tensor] = [:]
      for spec in component.outputs {
        guard let array = features.featureValue(for: spec.name)?.multiArrayValue else {
          throw EdgegenError(.badShape, "\(component.name) gave no \(spec.name).", "Export the bundle again.")
        }
        tensors[spec.name] = try MultiArrays.tensor(of: array, spec)
      }
      return tensors
    }
  }

  extension ComputeUnit {
    var coreML: MLComputeUnits {
      switch self {
      case .all: .all
      case .neuralEngine: .cpuAndNeuralEngine
      case .gpu: .cpuAndGPU
      case .cpu: .cpuOnly
      }
    }
  }
#endif
