import Foundation

/// A bundle on disk whose manifest was read: artifacts, tokenizers and what it takes to draw with them.
public struct ModelBundle: Sendable, Equatable {
  public let root: URL
  public let manifest: Manifest

  /// Reads a bundle's folder. A malformed manifest, a path that leaves the folder and a file that is missing or, with
  /// `checkingDigests`, has changed are errors that name the file. Digests are checked once, when a bundle is imported.
  /// Of a bundle with several tiers the folder of a further tier inside it chooses that.
  public static func load(_ root: URL, checkingDigests: Bool = true) throws -> ModelBundle {
    if let outer = furtherTier(root) {
      let tiers = try load(outer, checkingDigests: checkingDigests).tiers
      if let found = tiers.first(where: { $0.manifest.tier == root.lastPathComponent }) { return found }
    }
    let bundle = ModelBundle(root: root, manifest: try ManifestReader.read(folder: root))
    for file in bundle.files {
      let url = try BundlePath.resolve(file.path, in: root)
      guard FileManager.default.fileExists(atPath: url.path) else {
        throw EdgegenError(.missingFile, "\(file.path) is missing.", "Export the bundle again.")
      }
      if checkingDigests { try check(file, at: url) }
    }
    return bundle
  }

  /// The bundle in which a folder without a manifest is that of a further tier.
  private static func furtherTier(_ folder: URL) -> URL? {
    let outer = folder.standardizedFileURL.deletingLastPathComponent()
    let isBundle = { (url: URL) in FolderFiles.isFile(url.appendingPathComponent(Manifest.fileName)) }
    guard !isBundle(folder), isBundle(outer), let manifest = try? ManifestReader.read(folder: outer) else { return nil }
    return manifest.tiers?.contains { $0.tier == folder.lastPathComponent } == true ? outer : nil
  }

  /// The bundle once for each of its tiers, the first first.
  public var tiers: [ModelBundle] { manifest.each.map { ModelBundle(root: root, manifest: $0) } }

  /// `model/tier`, as a person reads it.
  public var title: String { "\(manifest.model)/\(manifest.tier)" }

  /// Where a component's artifact lies.
  public func url(of component: Component) -> URL { root.appendingPathComponent(component.path) }

  /// The components of a role on a back end in the manifest's order; none is an error that lists what there is.
  public func components(_ role: Role, on backend: String) throws -> [Component] {
    let found = manifest.components(of: backend).filter { $0.role == role }
    if found.isEmpty {
      let has = manifest.components.map { "\($0.name)/\($0.backend)" }.joined(separator: ", ")
      throw EdgegenError(.incomplete, "\(title) has no \(role.rawValue) for \(backend).", "It has: \(has).")
    }
    return found
  }

  /// The first of the back ends given that the bundle has whole; none is an error.
  public func backend(among wanted: [String]) throws -> String {
    guard let found = wanted.first(where: { ManifestChecks.isWhole(manifest.components(of: $0)) }) else {
      throw EdgegenError(
        .incomplete,
        "\(title) has \(manifest.backends.joined(separator: ", ")) and nothing whole for "
          + "\(wanted.joined(separator: " or ")).", "Export it with --backend \(wanted.first ?? "").")
    }
    return found
  }

  /// The tokenizers of the bundle.
  public func tokenizers() throws -> Tokenizers {
    let files = try manifest.tokenizer.map { ($0.name, try Data(contentsOf: root.appendingPathComponent($0.path))) }
    return try Tokenizers(files: Dictionary(files) { _, last in last })
  }

  private struct ListedFile {
    let path: String
    let sha256: String
    let bytes: Int
  }

  private var files: [ListedFile] {
    (manifest.components + (manifest.tiers ?? []).flatMap(\.components))
      .map { ListedFile(path: $0.path, sha256: $0.sha256, bytes: $0.bytes) }
      + manifest.tokenizer.map { ListedFile(path: $0.path, sha256: $0.sha256, bytes: $0.bytes) }
  }

  private static func check(_ file: ListedFile, at url: URL) throws {
    let found = try Digest(of: url, isFolder: FolderFiles.isFolder(url))
    guard found.sha256 == file.sha256, found.bytes == file.bytes else {
      throw EdgegenError(
        .changedFile,
        "\(file.path) has changed: sha256 \(found.sha256.prefix(12)), \(found.bytes) bytes; the manifest "
          + "says \(file.sha256.prefix(12)), \(file.bytes).", "Export or copy the bundle again.")
    }
  }
}
