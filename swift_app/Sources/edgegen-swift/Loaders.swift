import EdgegenCore
import Foundation

#if WITH_ONNX
  import EdgegenONNX
#endif

/// The back ends that this command was built with.
struct Loaders: LoaderProvider {
  let threads: Int

  #if WITH_ONNX
    let backends = [OnnxLoader.backendName]
  #else
    let backends: [String] = []
  #endif

  func loader(backend: String, unit: ComputeUnit) throws -> any NetworkLoader {
    #if WITH_ONNX
      if backend == OnnxLoader.backendName { return OnnxLoader(try OnnxLibrary(), threads: threads) }
    #endif
    throw EdgegenError(.badInput, "this edgegen-swift has no \(backend).", "It has: \(backends.joined(separator: ", ")).")
  }

  /// Versions of what runs the networks, for a record.
  func versions() throws -> [String: String] {
    var found = ["edgegen-swift": AppVersion.current]
    #if WITH_ONNX
      found["onnxruntime"] = try OnnxLibrary().version
    #endif
    return found
  }

  /// As many threads as OMP_NUM_THREADS says, otherwise the cores there are: what edgegen does.
  static func usualThreads() -> Int {
    let asked = ProcessInfo.processInfo.environment["OMP_NUM_THREADS"].flatMap { Int($0) } ?? 0
    return asked > 0 ? asked : ProcessInfo.processInfo.activeProcessorCount
  }
}
