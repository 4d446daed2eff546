import Foundation

/// One id that begins, then a prompt's UTF-8 bytes plus an offset, ASCII capitals lowered.
public struct ByteTokenizer: Codable, Equatable, Sendable {
  public let length: Int  // ids, padded with 0
  public let offset: Int
  public let begin: Int

  /// Ids cut or padded to `length`, and whether they were cut.
  public func encode(_ prompt: String) -> (ids: [Int32], isCut: Bool) {
    let bytes = prompt.utf8.prefix(length).map { byte in
      Int32(truncatingIfNeeded: offset) + Int32(byte >= 0x41 && byte <= 0x5A ? byte + 0x20 : byte)
    }
    return PaddedIds.fit([Int32(truncatingIfNeeded: begin)] + bytes, length: length, closing: nil)
  }
}

/// Ids at the fixed length that a text encoder takes.
enum PaddedIds {
  static let pad: Int32 = 0

  /// Ids cut or padded to a length, and whether they were cut; cut ids end in `closing`, if given.
  static func fit(_ ids: [Int32], length: Int, closing: Int32?) -> (ids: [Int32], isCut: Bool) {
    guard ids.count > length else {
      return (ids + [Int32](repeating: pad, count: length - ids.count), false)
    }
    var kept = Array(ids.prefix(length))
    if let closing, length > 0 { kept[length - 1] = closing }
    return (kept, true)
  }
}
