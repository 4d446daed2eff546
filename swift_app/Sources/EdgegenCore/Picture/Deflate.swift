import Foundation

/// DEFLATE (RFC 1951).
enum Deflate {
  private static let largest = 65535  // bytes of a stored block

  /// Compressed where the system can; elsewhere in stored blocks, which every reader takes.
  static func encode(_ bytes: [UInt8]) -> [UInt8] {
    #if canImport(Darwin)
      if let packed = try? (Data(bytes) as NSData).compressed(using: .zlib) { return [UInt8](packed as Data) }
    #endif
    return stored(bytes)
  }

  static func stored(_ bytes: [UInt8]) -> [UInt8] {
    var result: [UInt8] = []
    var start = 0
    repeat {
      let end = min(bytes.count, start + largest)
      let size = UInt16(end - start), isLast = end == bytes.count
      result += [isLast ? 1 : 0, UInt8(size & 0xFF), UInt8(size >> 8), UInt8(~size & 0xFF), UInt8(~size >> 8)]
      result += bytes[start..<end]
      start = end
    } while start < bytes.count
    return result
  }
}
