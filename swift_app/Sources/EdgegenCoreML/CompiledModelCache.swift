#if canImport(CoreML)
  import CoreML
  import EdgegenCore
  import Foundation

  /// Core ML's compiled forms of packages, kept by the packages' sha256: compiling takes long, and is done once.
  ///
  /// A compiled form serves one release of the system, so each has a folder of its own; those of others are removed.
  public struct CompiledModelCache: Sendable {
    private let root: URL
    private let folder: URL

    /// A cache in a folder; `system` is the build of the operating system.
    public init(folder root: URL, system: String) {
      self.root = root
      folder = root.appendingPathComponent(system)
    }

    /// The compiled form of a component, compiled now where it is not there yet; appears whole or not at all.
    public func compiled(_ component: Component, at package: URL) throws -> URL {
      if package.pathExtension == Self.suffix { return package }
      let target = url(of: component)
      if FileManager.default.fileExists(atPath: target.path) { return target }
      let made = try compile(component, package)
      defer { try? FileManager.default.removeItem(at: made) }
      do {
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let partial = folder.appendingPathComponent("\(Self.partialPrefix)\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: partial) }
        try FileManager.default.moveItem(at: made, to: partial)  // may copy, from another disk
        try FileManager.default.moveItem(at: partial, to: target)
      } catch {
        throw EdgegenError(
          .disk, "the compiled form of \(component.name) cannot be kept: \(error.localizedDescription).",
          "Free some space.")
      }
      return target
    }

    /// Whether a component's first load will be quick.
    public func holds(_ component: Component) -> Bool {
      FileManager.default.fileExists(atPath: url(of: component).path)
    }

    /// Lets go of a compiled form, as when it does not load.
    public func remove(_ component: Component) { try? FileManager.default.removeItem(at: url(of: component)) }

    /// Removes what belongs to no component given, to another release of the system, or to a compile that was killed.
    public func prune(keeping components: [Component]) {
      let kept = Set(components.map { url(of: $0).lastPathComponent })
      for name in names(in: root) where name != folder.lastPathComponent { remove(root, name) }
      for name in names(in: folder) where !kept.contains(name) { remove(folder, name) }
    }

    private static let suffix = "mlmodelc"
    private static let partialPrefix = ".partial-"

    private func url(of component: Component) -> URL {
      folder.appendingPathComponent("\(component.sha256).\(Self.suffix)")
    }

    private func compile(_ component: Component, _ package: URL) throws -> URL {
      do {
        return try MLModel.compileModel(at: package)
      } catch {
        throw EdgegenError(
          .runtime, "Core ML cannot compile \(component.path): \(error.localizedDescription).",
          "Update the system, or export for an earlier one.")
      }
    }

    private func names(in folder: URL) -> [String] {
      (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
    }

    private func remove(_ folder: URL, _ name: String) {
      try? FileManager.default.removeItem(at: folder.appendingPathComponent(name))
    }
  }
#endif
