import Foundation

#if os(iOS)
  import os
#endif

/// The memory of this process and of the device, as the system tells it.
public enum MemoryMeter {
  /// Starts the kernel's record of the peak anew; where that cannot be done the peak is that of the whole run.
  public static func resetPeak() {
    #if os(Linux)
      if let file = FileHandle(forWritingAtPath: "/proc/self/clear_refs") {
        try? file.write(contentsOf: Data("5".utf8))
      }
    #endif
  }

  /// The most memory this process has held since the record began.
  public static func peakBytes() -> Int {
    if let told = kilobytes("VmHWM:", in: "/proc/self/status") { return told * 1024 }
    var usage = rusage()
    #if canImport(Darwin)
      getrusage(RUSAGE_SELF, &usage)
      return usage.ru_maxrss
    #else
      getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
      return usage.ru_maxrss * 1024
    #endif
  }

  /// What this process may still take before the system ends it; nil where the system does not say.
  public static func availableBytes() -> Int? {
    #if os(iOS)
      return os_proc_available_memory()
    #else
      return kilobytes("MemAvailable:", in: "/proc/meminfo").map { $0 * 1024 }
    #endif
  }

  private static func kilobytes(_ key: String, in path: String) -> Int? {
    guard let text = try? String(contentsOfFile: path, encoding: .utf8) else { return nil }
    let line = text.split(separator: "\n").first { $0.hasPrefix(key) }
    return line?.split(separator: " ").dropFirst().first.flatMap { Int($0) }
  }
}
