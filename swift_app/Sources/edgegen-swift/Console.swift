import EdgegenCore
import Foundation

/// What people read, and files that appear whole.
enum Console {
  /// A line on standard error; standard output is for results.
  static func tell(_ line: String) { FileHandle.standardError.write(Data((line + "\n").utf8)) }

  static func write(_ data: Data, to url: URL) throws {
    do {
      try data.write(to: url, options: .atomic)
    } catch {
      throw EdgegenError(.disk, "cannot write \(url.path): \(error.localizedDescription).", "Choose another --out.")
    }
  }
}
