import Foundation
import Testing

@testable import EdgegenCore

/// Bundles of other projects' networks, as edgegen exports them and as nobody does.
struct ForeignVectors: Decodable {
  struct Case: Decodable, CustomTestStringConvertible {
    let name: String
    let manifest: String
    let index: String?
    let kind: EdgegenError.Kind
    let says: [String]
    var testDescription: String { name }

    func write(to folder: ScratchFolder) throws {
      try folder.write(["manifest.json": manifest])
      if let index { try folder.write(["pipeline/model_index.json": index]) }
    }
  }

  let limit: Int
  let cases: [Case]

  static let all = Vectors.read("foreign", as: ForeignVectors.self)
}

struct ForeignBundleTests {
  private func refusal(of call: () throws -> Void) throws -> EdgegenError {
    var found: EdgegenError?
    do { try call() } catch let error as EdgegenError { found = error }
    return try #require(found, "nothing was refused")
  }

  @Test(arguments: ForeignVectors.all.cases)
  func itIsRefusedByTheNamesThatItGives(_ expected: ForeignVectors.Case) throws {
    let folder = ScratchFolder(), home = ScratchFolder()
    try expected.write(to: folder)
    let opened = try refusal { _ = try ModelBundle.load(folder.url) }
    #expect(opened.kind == expected.kind, "\(opened)")
    for words in expected.says { #expect(opened.description.contains(words), "\(opened)") }
    #expect(opened.description.unicodeScalars.allSatisfy { $0 == "…" || (" "..."~").contains($0) }, "\(opened)")
    #expect(opened.description.count <= ForeignVectors.all.limit)
    #expect(try refusal { try BundleLibrary(imported: home.url).importBundle(from: folder.url) } == opened)
    #expect(try FileManager.default.contentsOfDirectory(atPath: home.url.path).isEmpty)
  }

  @Test func theRealOnesAreNamedInFull() throws {
    let folder = ScratchFolder()
    try #require(ForeignVectors.all.cases.first { $0.name == "the pipeline pixart" }).write(to: folder)
    let found = try refusal { _ = try ModelBundle.load(folder.url) }
    #expect(
      found
        == EdgegenError(
          .foreignNetworks,
          "manifest.json: this bundle is a pipeline, PixArtSigmaPipeline with PixArtTransformer2DModel, that draws with "
            + "DPMSolverMultistepScheduler (sampler DPM-Solver++, prediction epsilon, guidance batch); this app draws "
            + "with edgegen's own networks and flow-matching Euler.", "On a computer, edgegen generate draws with it."))
    #expect(found.exitCode == 2)
  }

  @Test func anIndexThatLiesOutsideOrIsHugeIsNotRead() throws {
    let real = try #require(ForeignVectors.all.cases.first { $0.name == "the pipeline pixart, as it was" })
    let index = try #require(real.index)
    let folder = ScratchFolder(), outside = ScratchFolder()
    try real.write(to: folder)
    try outside.write(["index.json": index])
    let url = folder.url.appendingPathComponent("pipeline/model_index.json")
    try FileManager.default.removeItem(at: url)
    try FileManager.default.createSymbolicLink(
      at: url, withDestinationURL: outside.url.appendingPathComponent("index.json"))
    let linked = try refusal { _ = try ModelBundle.load(folder.url) }
    #expect(linked.kind == .foreignNetworks && !linked.message.contains("PixArtSigmaPipeline"))
    try FileManager.default.removeItem(at: url)
    try folder.write(["pipeline/model_index.json": index + String(repeating: " ", count: 1 << 20)])
    #expect(try refusal { _ = try ModelBundle.load(folder.url) } == linked)
  }

  @Test func nestingWithoutEndIsNoManifest() throws {
    let nested = String(repeating: "[", count: 1_000_000) + String(repeating: "]", count: 1_000_000)
    let manifest = Data("{\"format_version\": 2, \"pipeline\": \(nested)}".utf8)
    #expect(try refusal { _ = try ManifestReader.parse(manifest) }.kind == .unreadableManifest)
  }
}
