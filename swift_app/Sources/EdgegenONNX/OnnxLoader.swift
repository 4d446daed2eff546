import COnnxRuntime
import EdgegenCore
import Foundation

/// Opens the ONNX files of bundles on the processor.
public struct OnnxLoader: NetworkLoader {
  public static let backendName = "onnx"

  public let backend = OnnxLoader.backendName
  public let computeUnit = "cpu"
  private let library: OnnxLibrary
  private let threads: Int

  public init(_ library: OnnxLibrary, threads: Int) {
    self.library = library
    self.threads = threads
  }

  public func open(_ component: Component, of bundle: ModelBundle) throws -> any Network {
    let settings = try library.made { library.api.CreateSessionOptions($0) }
    defer { library.api.ReleaseSessionOptions(settings) }
    try library.check(library.api.SetIntraOpNumThreads(settings, Int32(threads)))
    try library.check(library.api.SetInterOpNumThreads(settings, 1))
    try library.check(library.api.SetSessionLogSeverityLevel(settings, 3))
    for (key, value) in component.options ?? [:] {
      try library.check(library.api.AddSessionConfigEntry(settings, key, value))
    }
    let path = bundle.url(of: component).path
    let session = try library.made { library.api.CreateSession(library.environment, path, settings, $0) }
    return OnnxNetwork(library, session, component)
  }
}
