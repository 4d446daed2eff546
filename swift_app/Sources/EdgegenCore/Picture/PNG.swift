import Foundation

/// Writes pictures as PNG (ISO 15948) with what they were made of in text chunks.
public enum PNG {
  private static let signature: [UInt8] = [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]

  /// A PNG file; `texts` are stored as international text by keyword, Latin letters of at most 79.
  public static func encode(_ picture: Picture, texts: [(keyword: String, text: String)] = []) -> Data {
    var file = signature
    file += chunk("IHDR", big(UInt32(picture.width)) + big(UInt32(picture.height)) + [8, 2, 0, 0, 0])
    for entry in texts {
      file += chunk("iTXt", Array(entry.keyword.utf8) + [0, 0, 0, 0, 0] + Array(entry.text.utf8))
    }
    file += chunk("IDAT", zlib(scanlines(picture)))
    return Data(file + chunk("IEND", []))
  }

  /// Rows, each behind its filter's number: 0, none.
  private static func scanlines(_ picture: Picture) -> [UInt8] {
    let row = 3 * picture.width
    var lines: [UInt8] = []
    lines.reserveCapacity((row + 1) * picture.height)
    for y in 0..<picture.height {
      lines.append(0)
      lines += picture.rgb[y * row..<(y + 1) * row]
    }
    return lines
  }

  private static func zlib(_ bytes: [UInt8]) -> [UInt8] {
    [0x78, 0x01] + Deflate.encode(bytes) + big(Checksums.adler32(bytes))
  }

  private static func chunk(_ type: String, _ data: [UInt8]) -> [UInt8] {
    let body = Array(type.utf8) + data
    return big(UInt32(data.count)) + body + big(Checksums.crc32(body))
  }

  private static func big(_ value: UInt32) -> [UInt8] {
    (0..<4).map { UInt8(truncatingIfNeeded: value >> (24 - 8 * $0)) }
  }
}
