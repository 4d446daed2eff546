import Foundation

/// An append-only file of rows, one line of JSON each.
public struct RecordFile: Sendable {
  public let url: URL

  public init(_ url: URL) { self.url = url }

  /// Appends a row as one line, written at once and synced, after closing a line that was cut off.
  public func append(_ row: JSONValue) throws {
    let line = try row.line() + "\n"
    do {
      try FileManager.default.createDirectory(
        at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
      if !FileManager.default.fileExists(atPath: url.path) { try Data().write(to: url) }
      let handle = try FileHandle(forUpdating: url)
      defer { try? handle.close() }
      let size = try handle.seekToEnd()
      try handle.write(contentsOf: Data((try isTorn(handle, size) ? "\n" + line : line).utf8))
      try handle.synchronize()
    } catch let error as NSError {
      throw EdgegenError(.disk, "cannot write \(url.path): \(error.localizedDescription).", "Free some space.")
    }
  }

  /// The rows; a line that was cut off is passed over, a missing file has none.
  public func rows() -> [JSONValue] {
    guard let text = try? String(contentsOf: url, encoding: .utf8) else { return [] }
    return text.split(separator: "\n").compactMap { try? JSONDecoder().decode(JSONValue.self, from: Data($0.utf8)) }
  }

  private func isTorn(_ handle: FileHandle, _ size: UInt64) throws -> Bool {
    guard size > 0 else { return false }
    try handle.seek(toOffset: size - 1)
    let last = try handle.read(upToCount: 1)
    try handle.seekToEnd()
    return last != Data([0x0A])
  }
}
