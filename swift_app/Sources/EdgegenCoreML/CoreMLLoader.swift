#if canImport(CoreML)
  import CoreML
  import EdgegenCore
  import Foundation

  /// Opens Core ML packages: compiled once, loaded on the compute unit wished for, or on the next that takes them.
  public final class CoreMLLoader: NetworkLoader {
    public static let backendName = "coreml"

    public let backend = CoreMLLoader.backendName
    private let cache: CompiledModelCache
    private let unit: ComputeUnit
    private var usedUnits: [ComputeUnit] = []

    public init(_ cache: CompiledModelCache, unit: ComputeUnit) {
      self.cache = cache
      self.unit = unit
    }

    /// The units in use, the wish first: "all", or "all,cpu" where one network had to fall back.
    public var computeUnit: String {
      let all = usedUnits.isEmpty ? [unit] : usedUnits
      let ordered = unit.fallbacks.filter { all.contains($0) }
      return ordered.map(\.rawValue).joined(separator: ",")
    }

    /// A component that is ready. A compiled form that no unit loads is compiled once more before that is an error.
    public func open(_ component: Component, of bundle: ModelBundle) throws -> any Network {
      do {
        return try load(component, bundle)
      } catch let error as EdgegenError where error.kind == .runtime && cache.holds(component) {
        cache.remove(component)
        return try load(component, bundle)
      }
    }

    private func load(_ component: Component, _ bundle: ModelBundle) throws -> any Network {
      let compiled = try cache.compiled(component, at: bundle.url(of: component))
      return try CoreMLNetwork(component, compiled, units: unit.fallbacks) { self.usedUnits.append($0) }
    }
  }
#endif
