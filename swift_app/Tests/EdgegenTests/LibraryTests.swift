import Foundation
import Testing

@testable import EdgegenCore

struct LibraryTests {
  private let source = ScratchFolder(), home = ScratchFolder()
  private var library: BundleLibrary { BundleLibrary(imported: home.url) }

  private func names() throws -> [String] { try FileManager.default.contentsOfDirectory(atPath: home.url.path) }

  @Test func anImportIsACopyThatIsChecked() throws {
    let bundle = try TinyBundle.make(in: source)
    var shares: [Int] = []
    let copy = try library.importBundle(from: source.url, advance: { done, _ in shares.append(done) })
    #expect(copy.root != bundle.root && copy.manifest == bundle.manifest)
    #expect(try ModelBundle.load(copy.root) == copy)
    #expect(shares == shares.sorted() && shares.count > 3)
    #expect(library.bundles().map(\.title) == ["tiny/low-android"])
    #expect(try names().count == 1)
  }

  @Test(arguments: BundleVectors.broken)
  func nothingIsLeftOfABrokenBundle(_ broken: BundleVectors.Broken) throws {
    try BundleVectors.whole.write(to: source, changed: broken)
    expectError(broken.kind) { _ = try library.importBundle(from: source.url) }
    #expect(try names().isEmpty)
  }

  @Test func nothingIsLeftOfAnImportThatIsStopped() throws {
    _ = try TinyBundle.make(in: source)
    var files = 0
    #expect(throws: CancellationError.self) {
      try library.importBundle(from: source.url, isStopped: { files == 3 }, advance: { _, _ in files += 1 })
    }
    #expect(try names().isEmpty && library.bundles().isEmpty)
  }

  @Test func whatAKilledImportLeftIsNeverListedAndIsRemoved() throws {
    let bundle = try TinyBundle.make(in: source)
    let left = home.url.appendingPathComponent(".partial-1")
    try FileManager.default.copyItem(at: bundle.root, to: left)
    #expect(library.bundles().isEmpty)
    library.cleanUp()
    #expect(try names().isEmpty)
  }

  @Test func aSecondImportTakesThePlaceOfTheFirst() throws {
    _ = try TinyBundle.make(in: source, width: 0.5)
    try library.importBundle(from: source.url)
    let other = ScratchFolder()
    _ = try TinyBundle.make(in: other, width: 0.25)
    try library.importBundle(from: other.url)
    #expect(library.bundles().map(\.manifest.width) == [0.25])
    #expect(try names().count == 1)
  }

  @Test func aCarriedBundleCannotBeRemoved() throws {
    let carried = ScratchFolder()
    _ = try TinyBundle.make(in: source)
    try FileManager.default.copyItem(at: source.url, to: carried.url.appendingPathComponent("tiny"))
    let both = BundleLibrary(imported: home.url, carried: carried.url)
    let bundle = try #require(both.bundles().first)
    expectError(.badInput) { try both.remove(bundle) }
    let imported = try both.importBundle(from: source.url)
    #expect(both.bundles().map(\.root.lastPathComponent) == [imported.root.lastPathComponent])
    try both.remove(imported)
    #expect(both.bundles().count == 1)
  }

  @Test(arguments: [
    ("../../etc", "etc"), ("", "bundle"), ("...", "bundle"), (".hidden", "hidden"),
    ("A b/C", "a-b-c"), ("лиса", "bundle"),
  ])
  func namesOfFoldersAreSafe(_ text: String, _ expected: String) {
    #expect(FileNames.safe(text) == expected)
  }
}

struct HistoryTests {
  private let source = ScratchFolder(), home = ScratchFolder()

  private func drawing(_ prompt: String) -> Drawing {
    Drawing(
      picture: Picture(width: 1, height: 1, rgb: [1, 2, 3]), prompt: prompt, seed: .max / 2, steps: 4, guidance: 1,
      isTruncated: false, seconds: 0.5)
  }

  @Test func theOldestGoBeyondTheLimit() throws {
    let bundle = try TinyBundle.make(in: source), store = HistoryStore(folder: home.url)
    for number in 0..<5 {
      try store.add(
        drawing("\(number)"), of: bundle, limit: 3, date: Date(timeIntervalSince1970: Double(number)))
    }
    #expect(store.entries().map(\.prompt) == ["4", "3", "2"])
    #expect(store.entries()[0].seed == UInt64.max / 2)
    let files = try FileManager.default.contentsOfDirectory(atPath: home.url.path)
    #expect(files.count == 6)
    store.remove(store.entries()[0])
    #expect(store.entries().map(\.prompt) == ["3", "2"])
  }

  @Test @MainActor func nothingIsKeptWhenItIsSwitchedOff() throws {
    let bundle = try TinyBundle.make(in: source)
    let settings = SettingsModel(file: home.url.appendingPathComponent("settings.json"))
    let model = HistoryModel(HistoryStore(folder: home.url.appendingPathComponent("h")), settings: settings)
    settings.values.keepsHistory = false
    model.add(drawing("secret"), of: bundle)
    #expect(model.entries.isEmpty)
    settings.values.keepsHistory = true
    model.add(drawing("open"), of: bundle)
    #expect(model.entries.map(\.prompt) == ["open"])
    #expect(try Data(contentsOf: model.pictureURL(of: model.entries[0])).prefix(4) == Data([0x89, 0x50, 0x4E, 0x47]))
    model.removeAll()
    #expect(model.entries.isEmpty)
  }
}

struct PNGTests {
  @Test func checksumsAreTheStandards() {
    #expect(Checksums.crc32("123456789".utf8) == 0xCBF4_3926)
    #expect(Checksums.adler32("Wikipedia".utf8) == 0x11E6_0398)
  }

  @Test func storedBlocksHoldAtMostWhatTheyMay() {
    let bytes = [UInt8](repeating: 7, count: 65535 + 10)
    let blocks = Deflate.stored(bytes)
    #expect(Array(blocks.prefix(5)) == [0, 0xFF, 0xFF, 0, 0])
    #expect(Array(blocks[(5 + 65535)..<(5 + 65535 + 5)]) == [1, 10, 0, 0xF5, 0xFF])
    #expect(blocks.count == bytes.count + 10)
    #expect(Deflate.stored([]) == [1, 0, 0, 0xFF, 0xFF])
  }
}
