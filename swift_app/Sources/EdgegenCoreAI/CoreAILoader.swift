#if canImport(CoreAI)
  import CoreAI
  import EdgegenCore
  import Foundation

  /// Opens Core AI assets, which take Core ML's place from iOS and macOS 27 on.
  ///
  /// Unexercised: no machine of ours has such a system. It follows Apple's published interface and examples.
  @available(iOS 27, macOS 27, *)
  public struct CoreAILoader: NetworkLoader {
    public static let backendName = "coreai"

    public let backend = CoreAILoader.backendName
    public let computeUnit = "all"

    public init() {}

    public func open(_ component: Component, of bundle: ModelBundle) throws -> any Network {
      let url = bundle.url(of: component)
      let function = try Waiting.result {
        let model = try await AIModel(contentsOf: url)
        guard let function = try model.loadFunction(named: "main") else {
          throw EdgegenError(.runtime, "\(component.path) has no function main.", "Export the bundle again.")
        }
        return function
      }
      return CoreAINetwork(component, function)
    }
  }
#endif
