import Foundation
import Testing

@testable import EdgegenCore

/// The small whole bundle of the vectors, and ways to break it.
struct BundleVectors: Decodable {
  struct Broken: Decodable, CustomTestStringConvertible {
    let name: String
    let kind: EdgegenError.Kind
    let replace: [String]?
    let delete: String?
    let write: [String: String]?
    var testDescription: String { name }
  }

  struct BrokenFile: Decodable { let cases: [Broken] }

  let manifest: String
  let files: [String: String]

  static let whole = Vectors.read("bundle", as: BundleVectors.self)
  static let broken = Vectors.read("broken_bundles", as: BrokenFile.self).cases

  /// Writes the bundle, with a case's change.
  func write(to folder: ScratchFolder, changed: Broken? = nil) throws {
    var text = manifest
    if let replace = changed?.replace {
      try #require(text.components(separatedBy: replace[0]).count == 2)
      text = text.replacingOccurrences(of: replace[0], with: replace[1])
    }
    var all = files.merging(["manifest.json": text]) { _, new in new }
    all.merge(changed?.write ?? [:]) { _, new in new }
    if let gone = changed?.delete { all[gone] = nil }
    try folder.write(all)
  }
}

struct TierVectors: Decodable {
  struct Tier: Decodable {
    let tier: String
    let width: Double
    let floor: Double
    let paths: [String]

    enum CodingKeys: String, CodingKey {
      case tier, width, paths
      case floor = "floor_db"
    }
  }

  let manifest: String
  let files: [String: String]
  let tiers: [Tier]
}

struct BundleTests {
  @Test func theWholeBundleIsLoaded() throws {
    let folder = ScratchFolder()
    try BundleVectors.whole.write(to: folder)
    let bundle = try ModelBundle.load(folder.url)
    #expect(bundle.manifest.components.count == 9)
    #expect(bundle.manifest.backends == ["onnx", "executorch", "coreml"])
    #expect(bundle.manifest.sigmas == [1, 0.9, 0.75, 0.5, 0])
    #expect(bundle.manifest.components.filter { !($0.options ?? [:]).isEmpty }.count == 1)
    #expect(try bundle.backend(among: ["coreai", "coreml"]) == "coreml")
    expectError(.incomplete) { _ = try bundle.backend(among: ["coreai"]) }
  }

  @Test func eachTierOfABundleIsAsIfItWereAlone() throws {
    let vectors = Vectors.read("tiers", as: TierVectors.self)
    let folder = ScratchFolder()
    let root = folder.url.appendingPathComponent("one")
    let files = vectors.files.merging(["manifest.json": vectors.manifest]) { _, new in new }
    try folder.write(Dictionary(uniqueKeysWithValues: files.map { ("one/\($0)", $1) }))
    let tiers = try ModelBundle.load(root).tiers
    #expect(tiers.map(\.manifest.tier) == vectors.tiers.map(\.tier))
    #expect(tiers.map(\.manifest.width) == vectors.tiers.map(\.width))
    #expect(tiers.map { $0.manifest.floorsDb["onnx"] } == vectors.tiers.map(\.floor))
    #expect(tiers.map { $0.manifest.components.map(\.path) } == vectors.tiers.map(\.paths))
    let full = try ModelBundle.load(root.appendingPathComponent("full"))
    #expect(full.manifest == tiers[2].manifest)
    let library = BundleLibrary(imported: ScratchFolder().url, carried: folder.url)
    #expect(Set(library.bundles().map(\.title)) == Set(tiers.map(\.title)))
    try folder.write(["one/full/onnx/transformer.onnx": "other"])
    expectError(.changedFile) { _ = try ModelBundle.load(root) }
  }

  @Test(arguments: BundleVectors.broken)
  func aBrokenBundleIsRefused(_ broken: BundleVectors.Broken) throws {
    let folder = ScratchFolder()
    try BundleVectors.whole.write(to: folder, changed: broken)
    expectError(broken.kind) { _ = try ModelBundle.load(folder.url) }
  }

  @Test func aLinkThatLeadsOutIsRefused() throws {
    let folder = ScratchFolder(), outside = ScratchFolder()
    try BundleVectors.whole.write(to: folder)
    let decoder = folder.url.appendingPathComponent("onnx/decoder.onnx")
    try outside.write(["decoder.onnx": BundleVectors.whole.files["onnx/decoder.onnx"]!])
    try FileManager.default.removeItem(at: decoder)
    try FileManager.default.createSymbolicLink(
      at: decoder, withDestinationURL: outside.url.appendingPathComponent("decoder.onnx"))
    expectError(.pathOutside) { _ = try ModelBundle.load(folder.url) }
  }
}

struct DigestTests {
  private struct Case: Decodable, CustomTestStringConvertible {
    let name: String
    let files: [String: String]
    let sha256: String
    let bytes: Int
    var testDescription: String { name }
  }

  private struct File: Decodable { let cases: [Case] }

  @Test(arguments: Vectors.read("digests", as: File.self).cases)
  private func foldersDigestsAreEdgegens(_ expected: Case) throws {
    let folder = ScratchFolder()
    try folder.write(expected.files)
    let digest = try Digest(of: folder.url, isFolder: true)
    #expect(digest.sha256 == expected.sha256)
    #expect(digest.bytes == expected.bytes)
  }

  @Test(arguments: [
    ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
      "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
  ])
  func sha256IsTheStandards(_ text: String, _ expected: String) {
    #expect(Sha256.hex(of: text.utf8) == expected)
  }

  @Test func piecesMakeNoDifference() {
    let bytes = (0..<1000).map { UInt8(truncatingIfNeeded: $0 * 7) }
    for size in [1, 3, 55, 56, 63, 64, 65, 128, 999] {
      var sha = Sha256()
      for start in stride(from: 0, to: bytes.count, by: size) {
        sha.update(Array(bytes[start..<min(bytes.count, start + size)]))
      }
      #expect(sha.hexDigest() == Sha256.hex(of: bytes))
    }
  }
}
