import Foundation

/// Reads a manifest and believes nothing that it says before it is checked.
public enum ManifestReader {
  /// The manifest of a bundle's folder; what is missing, malformed or out of range is an error that names it.
  public static func read(folder: URL) throws -> Manifest {
    let url = folder.appendingPathComponent(Manifest.fileName)
    guard FolderFiles.isFile(url) else {
      throw EdgegenError(
        .noManifest, "\(folder.path) has no \(Manifest.fileName): it is no bundle, or an unfinished one.",
        "Make one with edgegen export.")
    }
    return try parse(try Data(contentsOf: url)) { index(of: folder) }
  }

  /// A manifest from its JSON, with every value checked; `index` is what a bundle of another project's pipeline has
  /// beside it, asked for its names alone.
  public static func parse(_ data: Data, index: () -> JSONValue? = { nil }) throws -> Manifest {
    try checkVersion(of: data, index: index)
    do {
      let manifest = try JSONDecoder().decode(Manifest.self, from: data)
      try manifest.each.forEach(ManifestChecks.check)
      let names = manifest.each.map(\.tier)
      guard Set(names).count == names.count else {
        throw EdgegenError(
          .badField, "tiers has one of \(names.joined(separator: ", ")) twice.", "Export the bundle again.")
      }
      return manifest
    } catch let error as DecodingError {
      throw EdgegenError(.badField, "\(Manifest.fileName): \(told(error)).", "Export the bundle again.")
    }
  }

  private static func checkVersion(of data: Data, index: () -> JSONValue?) throws {
    guard let values = try? JSONDecoder().decode([String: JSONValue].self, from: data) else {
      throw EdgegenError(.unreadableManifest, "\(Manifest.fileName) is no JSON object.", "Export the bundle again.")
    }
    if values["format_version"] == .integer(Manifest.formatVersion) { return }
    if let foreign = ForeignBundle(values, index: index) { throw foreign.refusal }
    let found = (try? values["format_version"]?.line()) ?? "missing"
    throw EdgegenError(
      .unknownVersion,
      "\(Manifest.fileName): format_version is \(found.prefix(longest)), this app reads \(Manifest.formatVersion).",
      "Update the app, or export the bundle again.")
  }

  private static let longest = 60  // characters of a value that an error names

  /// The `model_index.json` of diffusers inside a bundle; nil where it is not there or cannot be read.
  private static func index(of folder: URL) -> JSONValue? {
    guard let url = try? BundlePath.resolve("pipeline/model_index.json", in: folder), FolderFiles.isFile(url),
      let size = try? url.resourceValues(forKeys: [.fileSizeKey]).fileSize, size <= indexLimit,
      let data = try? Data(contentsOf: url)
    else { return nil }
    return try? JSONDecoder().decode(JSONValue.self, from: data)
  }

  private static let indexLimit = 1 << 20  // bytes; a pipeline's has some hundred

  /// What a decoder refused, with the field's path: "components[2].sha256 is missing".
  private static func told(_ error: DecodingError) -> String {
    switch error {
    case .keyNotFound(let key, let context): "\(path(context.codingPath + [key])) is missing"
    case .typeMismatch(let type, let context): "\(path(context.codingPath)) must be \(name(of: type))"
    case .valueNotFound(let type, let context): "\(path(context.codingPath)) must be \(name(of: type)), found null"
    case .dataCorrupted(let context): "\(path(context.codingPath)) cannot be read: \(context.debugDescription)"
    @unknown default: "it cannot be read"
    }
  }

  private static func path(_ keys: [any CodingKey]) -> String {
    keys.reduce("") { path, key in
      if let index = key.intValue { return "\(path)[\(index)]" }
      return path.isEmpty ? key.stringValue : "\(path).\(key.stringValue)"
    }
  }

  private static func name(of type: any Any.Type) -> String {
    switch type {
    case is Int.Type: "a whole number"
    case is Double.Type: "a number"
    case is String.Type: "text"
    case is [String: Any].Type: "an object"
    default: String(describing: type).hasPrefix("Array") ? "a list" : "an object"
    }
  }
}
