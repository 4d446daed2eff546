import EdgegenCore
import EdgegenCoreAI
import EdgegenCoreML
import Foundation

/// Core ML, and Core AI where the system has it.
struct AppleLoaders: LoaderProvider {
  var backends: [String] {
    #if canImport(CoreAI)
      if #available(iOS 27, macOS 27, *) { return [CoreAILoader.backendName, CoreMLLoader.backendName] }
    #endif
    return [CoreMLLoader.backendName]
  }

  func loader(backend: String, unit: ComputeUnit) throws -> any NetworkLoader {
    #if canImport(CoreAI)
      if #available(iOS 27, macOS 27, *), backend == CoreAILoader.backendName { return CoreAILoader() }
    #endif
    return CoreMLLoader(Self.cache, unit: unit)
  }

  /// Lets go of compiled forms that no bundle needs any more.
  static func prune(keeping bundles: [ModelBundle]) {
    cache.prune(keeping: bundles.flatMap { $0.manifest.components(of: CoreMLLoader.backendName) })
  }

  private static var cache: CompiledModelCache {
    CompiledModelCache(folder: AppFolders.compiled, system: DeviceFacts.current().build ?? "any")
  }
}
