import Foundation
import Testing

@testable import EdgegenCore

/// The files of tests/vectors/, which edgegen writes for both apps.
enum Vectors {
  static let repository = URL(fileURLWithPath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

  static func read<Value: Decodable>(_ name: String, as type: Value.Type) -> Value {
    let url = repository.appendingPathComponent("tests/vectors/\(name).json")
    do {
      return try JSONDecoder().decode(type, from: try Data(contentsOf: url))
    } catch {
      fatalError("\(url.path) cannot be read: \(error)")
    }
  }

  static func float(_ bits: String) -> Float { Float(bitPattern: UInt32(bits, radix: 16)!) }

  /// sha256 of numbers, little end first.
  static func sha256(_ values: [Float]) -> String {
    Sha256.hex(of: values.flatMap { value in (0..<4).map { UInt8(truncatingIfNeeded: value.bitPattern >> (8 * $0)) } })
  }

  static func sha256(_ values: [Double]) -> String {
    Sha256.hex(of: values.flatMap { value in (0..<8).map { UInt8(truncatingIfNeeded: value.bitPattern >> (8 * $0)) } })
  }
}

/// A folder that is gone when the test is over.
final class ScratchFolder {
  let url: URL

  init() {
    url = FileManager.default.temporaryDirectory.appendingPathComponent("edgegen-\(UUID().uuidString)")
    try! FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(at: url) }

  /// Writes files of text by path.
  func write(_ files: [String: String]) throws {
    for (path, text) in files {
      let file = url.appendingPathComponent(path)
      try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
      try Data(text.utf8).write(to: file)
    }
  }
}

/// Whether a call failed with an error of a kind; what it did instead is an issue.
func expectError(
  _ kind: EdgegenError.Kind, sourceLocation: SourceLocation = #_sourceLocation, _ call: () throws -> Void
) {
  do {
    try call()
    Issue.record("nothing was refused, \(kind) was expected", sourceLocation: sourceLocation)
  } catch let error as EdgegenError {
    #expect(error.kind == kind, "\(error)", sourceLocation: sourceLocation)
    #expect(!error.message.isEmpty && !error.description.contains("\n"), sourceLocation: sourceLocation)
  } catch {
    Issue.record("\(error) is no EdgegenError", sourceLocation: sourceLocation)
  }
}
