import Foundation

/// The bundles an app can draw with: those it carries and those that were imported.
public struct BundleLibrary: Sendable {
  private let imported: URL  // a folder of the app's own
  private let carried: URL?  // inside the app, read only

  public init(imported: URL, carried: URL? = nil) {
    self.imported = imported
    self.carried = carried
  }

  /// Every bundle by title, each tier on its own; a folder that is no bundle is passed over. An imported one takes the place of a carried
  /// one of the same title. Digests were checked when they were imported, those inside an app by its signature.
  public func bundles() -> [ModelBundle] {
    let found = (carried.map(Self.folders) ?? []) + Self.folders(in: imported)
    let loaded = found.compactMap { try? ModelBundle.load($0, checkingDigests: false) }.flatMap(\.tiers)
    let byTitle = Dictionary(loaded.map { ($0.title, $0) }) { _, last in last }
    return byTitle.values.sorted { $0.title < $1.title }
  }

  /// Copies a bundle here, checks every byte of the copy, and renames it once it is whole.
  ///
  /// The folder of a file picker may change or vanish at any time: nothing is ever run from there. A bundle of the same
  /// title is replaced. `advance` is told the bytes copied, of how many; `isStopped` is asked before each file.
  @discardableResult
  public func importBundle(
    from source: URL, isStopped: () -> Bool = { false }, advance: (Int, Int) -> Void = { _, _ in }
  ) throws -> ModelBundle {
    _ = try ModelBundle.load(source, checkingDigests: false)  // refuses most of what is wrong before a byte is copied
    let partial = imported.appendingPathComponent("\(Self.partialPrefix)\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: partial) }
    do {
      try Self.copy(source, to: partial, isStopped: isStopped, advance: advance)
    } catch let error as CocoaError {
      throw EdgegenError(.disk, "the bundle cannot be copied: \(error.localizedDescription).", "Free some space.")
    }
    let copy = try ModelBundle.load(partial)
    return try place(copy)
  }

  /// Removes an imported bundle with all its tiers; one that the app carries stays.
  public func remove(_ bundle: ModelBundle) throws {
    guard bundle.root.standardizedFileURL.path.hasPrefix(imported.standardizedFileURL.path + "/") else {
      throw EdgegenError(.badInput, "\(bundle.title) is part of the app.", "Delete the app to remove it.")
    }
    try FileManager.default.removeItem(at: bundle.root)
  }

  /// Removes what imports that were killed left behind.
  public func cleanUp() {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: imported.path)) ?? []
    for name in names where name.hasPrefix(Self.partialPrefix) {
      try? FileManager.default.removeItem(at: imported.appendingPathComponent(name))
    }
  }

  private static let partialPrefix = ".partial-"

  /// The folders that may be bundles: those with a manifest, here or one level deeper (`model/tier`).
  private static func folders(in parent: URL) -> [URL] {
    let here = subfolders(of: parent)
    return (here + here.flatMap(subfolders)).filter {
      FolderFiles.isFile($0.appendingPathComponent(Manifest.fileName))
    }
  }

  private static func subfolders(of parent: URL) -> [URL] {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: parent.path)) ?? []
    return names.filter { !$0.hasPrefix(".") }.sorted().map { parent.appendingPathComponent($0) }
      .filter(FolderFiles.isFolder)
  }

  private static func copy(
    _ source: URL, to target: URL, isStopped: () -> Bool, advance: (Int, Int) -> Void
  ) throws {
    let names = try FolderFiles.relativePaths(in: source)
    let sizes = try names.map { try size(of: source.appendingPathComponent($0)) }
    let total = sizes.reduce(0, +)
    var done = 0
    for (name, size) in zip(names, sizes) {
      if isStopped() { throw CancellationError() }
      let file = target.appendingPathComponent(name)
      try FileManager.default.createDirectory(
        at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
      try FileManager.default.copyItem(at: source.appendingPathComponent(name), to: file)
      done += size
      advance(done, total)
    }
  }

  private static func size(of url: URL) throws -> Int {
    try FileManager.default.attributesOfItem(atPath: url.path)[.size] as? Int ?? 0
  }

  /// Renames a whole copy to its place; what was there is moved aside first and removed last.
  private func place(_ copy: ModelBundle) throws -> ModelBundle {
    let name = FileNames.safe("\(copy.manifest.model)-\(copy.manifest.tier)-\(copy.manifest.bits)")
    let target = imported.appendingPathComponent(name)
    let old = imported.appendingPathComponent("\(Self.partialPrefix)\(UUID().uuidString)")
    let isReplacing = FileManager.default.fileExists(atPath: target.path)
    if isReplacing { try FileManager.default.moveItem(at: target, to: old) }
    do {
      try FileManager.default.moveItem(at: copy.root, to: target)
    } catch {
      if isReplacing { try? FileManager.default.moveItem(at: old, to: target) }
      throw error
    }
    try? FileManager.default.removeItem(at: old)
    return ModelBundle(root: target, manifest: copy.manifest)
  }
}

/// Names of files made from text that a person or a manifest gave.
enum FileNames {
  private static let longest = 60

  /// Latin letters, digits, dots and dashes; never empty, never hidden.
  static func safe(_ text: String, otherwise: String = "bundle") -> String {
    let kept = text.lowercased().unicodeScalars.map { scalar -> Character in
      let isPlain = scalar.isASCII && (scalar.properties.isAlphabetic || scalar.properties.numericType != nil)
      return isPlain || scalar == "." ? Character(scalar) : "-"
    }
    let words = String(kept).split(separator: "-").joined(separator: "-").prefix(longest)
    let name = words.drop { $0 == "." || $0 == "-" }
    return name.isEmpty ? otherwise : String(name)
  }
}
