import Foundation

/// Where a path of a manifest lies; one that leaves the bundle is an error.
enum BundlePath {
  /// The file of a relative path with forward slashes; refuses what is absolute, climbs, or leads out through a link.
  static func resolve(_ path: String, in root: URL) throws -> URL {
    let outside = EdgegenError(.pathOutside, "\(path) points outside the bundle.", "Do not use this bundle.")
    let slashed = path.replacingOccurrences(of: "\\", with: "/")
    let parts = slashed.split(separator: "/", omittingEmptySubsequences: true)
    guard let first = parts.first, !slashed.hasPrefix("/"), !first.contains(":"), !parts.contains("..") else {
      throw outside
    }
    let url = root.appendingPathComponent(path)
    guard try allInside(url, root: root) else { throw outside }
    return url
  }

  private static func allInside(_ url: URL, root: URL) throws -> Bool {
    let inside = real(root)
    var entries = [url]
    if FolderFiles.isFolder(url) {
      entries += try FileManager.default.subpathsOfDirectory(atPath: url.path).map { url.appendingPathComponent($0) }
    }
    return entries.allSatisfy { entry in
      let found = real(entry)
      return found == inside || found.hasPrefix(inside + "/")
    }
  }

  /// The path without links; of a missing file, that of the nearest folder that is there and what follows it.
  private static func real(_ url: URL) -> String {
    if let resolved = realpath(url.path, nil) {
      defer { free(resolved) }
      return String(cString: resolved)
    }
    let parent = url.deletingLastPathComponent()
    return parent.path == url.path ? url.path : real(parent) + "/" + url.lastPathComponent
  }
}
