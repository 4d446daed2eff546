import Foundation

/// SHA-256 and bytes of a file or folder, as the bundle contract counts them.
public struct Digest: Equatable, Sendable {
  public let sha256: String
  public let bytes: Int

  private static let piece = 1 << 20

  /// Of a file its bytes'; of a folder that of the lines `<sha256>  <relative path>`, sorted by path.
  public init(of url: URL, isFolder: Bool) throws {
    if isFolder {
      try self.init(ofFolder: url)
    } else {
      try self.init(ofFile: url)
    }
  }

  private init(ofFile url: URL) throws {
    let handle = try FileHandle(forReadingFrom: url)
    defer { try? handle.close() }
    var sha = Sha256(), total = 0
    while let data = try handle.read(upToCount: Self.piece), !data.isEmpty {
      sha.update([UInt8](data))
      total += data.count
    }
    self.init(sha256: sha.hexDigest(), bytes: total)
  }

  private init(ofFolder url: URL) throws {
    var lines = "", total = 0
    for name in try FolderFiles.relativePaths(in: url) {
      let file = try Digest(ofFile: url.appendingPathComponent(name))
      lines += "\(file.sha256)  \(name)\n"
      total += file.bytes
    }
    self.init(sha256: Sha256.hex(of: lines.utf8), bytes: total)
  }

  private init(sha256: String, bytes: Int) {
    self.sha256 = sha256
    self.bytes = bytes
  }
}

/// The files below a folder.
enum FolderFiles {
  /// Paths with forward slashes, relative to the folder, in the order of their code points.
  static func relativePaths(in folder: URL) throws -> [String] {
    let names = try FileManager.default.subpathsOfDirectory(atPath: folder.path)
    return names.filter { isFile(folder.appendingPathComponent($0)) }.sorted {
      $0.utf8.lexicographicallyPrecedes($1.utf8)
    }
  }

  static func isFile(_ url: URL) -> Bool {
    var isFolder: ObjCBool = false
    return FileManager.default.fileExists(atPath: url.path, isDirectory: &isFolder) && !isFolder.boolValue
  }

  static func isFolder(_ url: URL) -> Bool {
    var isFolder: ObjCBool = false
    return FileManager.default.fileExists(atPath: url.path, isDirectory: &isFolder) && isFolder.boolValue
  }
}
