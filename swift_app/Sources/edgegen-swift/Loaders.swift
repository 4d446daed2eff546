import EdgegenCore
import Foundation

#if os(macOS)
  import EdgegenCoreML
#endif
#if WITH_ONNX
  import EdgegenONNX
#endif

/// The back ends that this command was built with.
struct Loaders: LoaderProvider {
  let threads: Int

  var backends: [String] {
    var found: [String] = []
    #if os(macOS)
      found.append(CoreMLLoader.backendName)
    #endif
    #if WITH_ONNX
      found.append(OnnxLoader.backendName)
    #endif
    return found
  }

  func loader(backend: String, unit: ComputeUnit) throws -> any NetworkLoader {
    #if os(macOS)
      if backend == CoreMLLoader.backendName { return CoreMLLoader(Self.cache, unit: unit) }
    #endif
    #if WITH_ONNX
      if backend == OnnxLoader.backendName { return OnnxLoader(try OnnxLibrary(), threads: threads) }
    #endif
    throw EdgegenError(
      .badInput, "this edgegen-swift has no \(backend).", "It has: \(backends.joined(separator: ", ")).")
  }

  /// Versions of what runs the networks, for a record.
  func versions(backend: String) throws -> [String: String] {
    var found = ["edgegen-swift": AppVersion.current]
    #if WITH_ONNX
      if backend == OnnxLoader.backendName { found["onnxruntime"] = try OnnxLibrary().version }
    #endif
    return found
  }

  /// As many threads as OMP_NUM_THREADS says, otherwise the cores there are: what edgegen does.
  static func usualThreads() -> Int {
    let asked = ProcessInfo.processInfo.environment["OMP_NUM_THREADS"].flatMap { Int($0) } ?? 0
    return asked > 0 ? asked : ProcessInfo.processInfo.activeProcessorCount
  }

  #if os(macOS)
    private static var cache: CompiledModelCache {
      let caches = FileManager.default.urls(for: .cachesDirectory, in: .userDomainMask)[0]
      return CompiledModelCache(
        folder: caches.appendingPathComponent("edgegen-swift"), system: DeviceFacts.current().build ?? "any")
    }
  #endif
}
