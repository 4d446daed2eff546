import COnnxRuntime
import EdgegenCore
import Foundation

/// ONNX Runtime's shared library, opened at run time: which one is a setting, not a matter of how this was linked.
public final class OnnxLibrary: @unchecked Sendable {  // immutable, and the C API may be called from any thread
  /// The environment variable that names the library.
  public static let variable = "EDGEGEN_ONNXRUNTIME"

  public let version: String
  let api: OrtApi
  let environment: OpaquePointer
  let memory: OpaquePointer  // tells that tensors lie in the processor's memory

  /// Opens the library at a path, or else the one that `EDGEGEN_ONNXRUNTIME` names, or the system's.
  public init(path: String? = nil) throws {
    setenv("ORT_DISABLE_TELEMETRY", "1", 1)  // from 1.29 on it sends some unless told otherwise when it is loaded
    let base = try Self.open(path)
    version = base.pointee.GetVersionString().map { String(cString: $0) } ?? "of no known version"
    guard let api = base.pointee.GetApi(UInt32(ORT_API_VERSION)) else {
      throw EdgegenError(
        .runtime, "ONNX Runtime \(version) lacks version \(ORT_API_VERSION) of its interface.", "Install a newer one.")
    }
    self.api = api.pointee
    environment = try Self.made(self.api) { api.pointee.CreateEnv(ORT_LOGGING_LEVEL_ERROR, "edgegen", $0) }
    memory = try Self.made(self.api) { api.pointee.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, $0) }
  }

  deinit {
    api.ReleaseMemoryInfo(memory)
    api.ReleaseEnv(environment)
  }

  /// Refuses a status that tells of an error.
  func check(_ status: OrtStatusPtr?) throws { try Self.check(api, status) }

  /// What a call of the C interface makes.
  func made(_ make: (UnsafeMutablePointer<OpaquePointer?>) -> OrtStatusPtr?) throws -> OpaquePointer {
    try Self.made(api, make)
  }

  private static func made(
    _ api: OrtApi, _ make: (UnsafeMutablePointer<OpaquePointer?>) -> OrtStatusPtr?
  ) throws -> OpaquePointer {
    var result: OpaquePointer?
    try check(api, make(&result))
    guard let result else { throw EdgegenError(.runtime, "ONNX Runtime made nothing and told no error.") }
    return result
  }

  private static func check(_ api: OrtApi, _ status: OrtStatusPtr?) throws {
    guard let status else { return }
    defer { api.ReleaseStatus(status) }
    let text = api.GetErrorMessage(status).map { String(cString: $0) } ?? ""
    throw EdgegenError(.runtime, "ONNX Runtime: \(text.split(separator: "\n").first ?? "an error without words").")
  }

  private typealias GetApiBase = @convention(c) () -> UnsafePointer<OrtApiBase>?

  private static func open(_ path: String?) throws -> UnsafePointer<OrtApiBase> {
    let named = path ?? ProcessInfo.processInfo.environment[variable]
    for name in named.map({ [$0] }) ?? systemNames {
      guard let handle = dlopen(name, RTLD_NOW | RTLD_LOCAL), let symbol = dlsym(handle, "OrtGetApiBase") else {
        continue
      }
      if let base = unsafeBitCast(symbol, to: GetApiBase.self)() { return base }
    }
    throw EdgegenError(
      .badInput, "ONNX Runtime cannot be opened: \(named ?? systemNames.joined(separator: ", ")).",
      "Set \(variable) to its libonnxruntime.so or .dylib, such as the one in the Python package onnxruntime.")
  }

  #if canImport(Darwin)
    private static let systemNames = [
      "/opt/homebrew/lib/libonnxruntime.dylib", "/usr/local/lib/libonnxruntime.dylib",
    ]
  #else
    private static let systemNames = ["libonnxruntime.so", "libonnxruntime.so.1"]
  #endif
}
