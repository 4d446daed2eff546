import Foundation

/// What ran a measurement.
public struct DeviceFacts: Equatable, Sendable {
  public let device: String  // edgegen's name, see AppleDevices; "host" for a computer
  public let processor: String
  public let cores: Int
  public let memoryBytes: Int
  public let loadPerMinute: Double?
  public let system: String
  public let model: String?  // as the maker counts, such as iPhone16,1
  public let build: String?  // of the system

  /// This device.
  public static func current() -> DeviceFacts {
    let info = ProcessInfo.processInfo
    let model = systemText("hw.machine")
    return DeviceFacts(
      device: model.map(AppleDevices.name) ?? "host", processor: processor(model), cores: info.activeProcessorCount,
      memoryBytes: Int(info.physicalMemory), loadPerMinute: load(), system: system(), model: model,
      build: systemText("kern.osversion"))
  }

  var json: JSONValue {
    [
      "processor": .string(processor), "cores": .integer(cores), "memory_bytes": .integer(memoryBytes),
      "load_1min": loadPerMinute.map { .number(($0 * 100).rounded() / 100) } ?? .null, "system": .string(system),
      "model": .optional(model), "soc": .string(processor), "build": .optional(build),
    ]
  }

  private static func processor(_ model: String?) -> String {
    if let brand = systemText("machdep.cpu.brand_string") { return brand }  // a Mac's
    if let model { return AppleDevices.chip(of: model) ?? model }
    let lines = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8))?.split(separator: "\n") ?? []
    let name = lines.first { $0.hasPrefix("model name") }?.split(separator: ":", maxSplits: 1).last
    return name.map { $0.trimmingCharacters(in: .whitespaces) } ?? "unknown"
  }

  private static func system() -> String {
    #if os(iOS)
      return "iOS " + ProcessInfo.processInfo.operatingSystemVersionString
    #elseif os(macOS)
      return "macOS " + ProcessInfo.processInfo.operatingSystemVersionString
    #else
      return ProcessInfo.processInfo.operatingSystemVersionString
    #endif
  }

  private static func load() -> Double? {
    var loads = [0.0, 0.0, 0.0]
    return getloadavg(&loads, 3) > 0 ? loads[0] : nil
  }

  private static func systemText(_ name: String) -> String? {
    #if canImport(Darwin)
      var size = 0
      guard sysctlbyname(name, nil, &size, nil, 0) == 0, size > 1 else { return nil }
      var bytes = [UInt8](repeating: 0, count: size)
      guard sysctlbyname(name, &bytes, &size, nil, 0) == 0 else { return nil }
      return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    #else
      return nil
    #endif
  }
}
