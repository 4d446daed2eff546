import Foundation
import Testing

@testable import EdgegenCore

@MainActor struct GeneratorModelTests {
  private let folder = ScratchFolder()
  private let fake = FakeLoader()

  private func model(availableBytes: Int? = nil) -> GeneratorModel {
    let drawer = PictureDrawer(FakeProvider(fake: fake), availableBytes: { availableBytes })
    var next: UInt64 = 6
    return GeneratorModel(
      drawer,
      nextSeed: {
        next += 1; return next
      })
  }

  @Test func aPromptBecomesAPicture() async throws {
    let bundle = try TinyBundle.make(in: folder), model = model()
    #expect(!model.canGenerate)
    model.prompt = "red heart"
    #expect(model.canGenerate && model.seed == 7)
    model.generate(with: bundle, unit: .all)
    #expect(model.isRunning && !model.canGenerate)
    await model.finish()
    #expect(model.phase == .idle && model.error == nil && model.preview == nil)
    #expect(model.drawing?.seed == 7 && model.drawing?.prompt == "red heart")
  }

  @Test func theNextPictureTakesAnotherSeedUnlessItIsKept() async throws {
    let bundle = try TinyBundle.make(in: folder), model = model()
    model.prompt = "red"
    for expected: UInt64 in [7, 8] {
      model.generate(with: bundle, unit: .all)
      await model.finish()
      #expect(model.drawing?.seed == expected)
    }
    model.keepsSeed = true
    model.generate(with: bundle, unit: .all)
    await model.finish()
    #expect(model.drawing?.seed == 8)
  }

  @Test func networksStayOpenForTheNextPicture() async throws {
    let bundle = try TinyBundle.make(in: folder), model = model()
    model.prompt = "red"
    for _ in 0..<2 {
      model.generate(with: bundle, unit: .all)
      await model.finish()
    }
    #expect(fake.log.filter { $0 == "open transformer" }.count == 1)
    model.generate(with: bundle, unit: .cpu)
    await model.finish()
    #expect(fake.log.filter { $0 == "open transformer" }.count == 2)
  }

  @Test func stoppingHalfWayLeavesNoPictureAndNoError() async throws {
    let bundle = try TinyBundle.make(in: folder), model = model()
    let reached = DispatchSemaphore(value: 0), go = DispatchSemaphore(value: 0)
    fake.onStep = {
      reached.signal(); go.wait()
    }
    model.prompt = "red"
    model.generate(with: bundle, unit: .all)
    await wait(for: reached)
    model.stop()
    #expect(model.phase == .stopping)
    for _ in 0..<20 { go.signal() }
    await model.finish()
    #expect(model.phase == .idle && model.drawing == nil && model.error == nil)
    #expect(!fake.log.contains("run decoder") || model.wantsPreviews)
  }

  private func wait(for semaphore: DispatchSemaphore) async {
    await withCheckedContinuation { continuation in
      DispatchQueue.global().async {
        semaphore.wait(); continuation.resume()
      }
    }
  }

  @Test func aFailureIsShownAndTheNextTryStartsAnew() async throws {
    let bundle = try TinyBundle.make(in: folder), model = model()
    fake.failsToOpen = "transformer"
    model.prompt = "red"
    model.generate(with: bundle, unit: .all)
    await model.finish()
    #expect(model.error?.kind == .runtime && model.drawing == nil)
    fake.failsToOpen = nil
    model.generate(with: bundle, unit: .all)
    await model.finish()
    #expect(model.error == nil && model.drawing != nil)
  }

  @Test func tooLittleMemoryIsSaidBeforeAnythingIsOpened() async throws {
    let bundle = try TinyBundle.make(in: folder), model = model(availableBytes: 1)
    model.prompt = "red"
    model.generate(with: bundle, unit: .all)
    await model.finish()
    #expect(model.error?.kind == .notEnoughMemory)
    #expect(fake.log.isEmpty)
  }

  @Test func anEntryOfTheHistoryIsDrawnAgain() async throws {
    let bundle = try TinyBundle.make(in: folder), model = model()
    let entry = HistoryEntry(
      id: UUID(), date: Date(), prompt: "heart", seed: 42, steps: 4, guidance: 1, bundle: bundle.title, seconds: 1)
    model.reuse(entry)
    model.generate(with: bundle, unit: .all)
    await model.finish()
    #expect(model.drawing?.seed == 42 && model.drawing?.prompt == "heart")
  }
}

@MainActor struct LibraryModelTests {
  private let home = ScratchFolder(), source = ScratchFolder()

  private func model(_ settings: SettingsModel) -> LibraryModel {
    LibraryModel(
      BundleLibrary(imported: home.url.appendingPathComponent("bundles")), settings: settings, backends: ["onnx"],
      availableBytes: nil, deviceModel: nil)
  }

  private func settings() -> SettingsModel { SettingsModel(file: home.url.appendingPathComponent("settings.json")) }

  @Test func anImportedBundleIsChosen() async throws {
    let bundle = try TinyBundle.make(in: source), model = model(settings())
    #expect(model.choice == nil)
    model.importBundle(from: source.url)
    #expect(model.importProgress == 0)
    await model.finish()
    #expect(model.importProgress == nil && model.error == nil)
    #expect(model.choice?.bundle.manifest == bundle.manifest)
  }

  @Test func anImportThatFailsIsOneMessage() async throws {
    let model = model(settings())
    try source.write(["manifest.json": "{"])
    model.importBundle(from: source.url)
    await model.finish()
    #expect(model.error?.kind == .unreadableManifest && model.bundles.isEmpty)
    model.dismissError()
    #expect(model.error == nil)
  }

  @Test func theNetworksOfAnotherProjectAreRefusedByName() async throws {
    let model = model(settings())
    try #require(ForeignVectors.all.cases.first { $0.name == "the pipeline sana_sprint" }).write(to: source)
    model.importBundle(from: source.url)
    await model.finish()
    #expect(model.error?.kind == .foreignNetworks && model.bundles.isEmpty)
    #expect(model.error?.message.contains("SanaSprintPipeline") == true)
    #expect(model.error?.message.contains("draws with SCMScheduler") == true)
  }

  @Test func theChoiceOutlivesTheApp() async throws {
    let bundle = try TinyBundle.make(in: source)
    let before = settings()
    model(before).choose(bundle)
    before.values.unit = .cpu
    let after = settings()
    #expect(after.values.chosenBundle == bundle.title && after.values.unit == .cpu)
    model(after).choose(nil)
    #expect(settings().values.chosenBundle == nil)
  }

  @Test func settingsThatCannotBeReadAreTheDefaults() throws {
    try home.write(["settings.json": "{\"unit\": 7}"])
    #expect(settings().values == AppSettings())
  }
}

@MainActor struct BenchModelTests {
  @Test func rowsAreRecordedAndThePictureDecidesTheTier() async throws {
    let folder = ScratchFolder(), home = ScratchFolder()
    let bundle = try TinyBundle.make(in: folder)
    let settings = SettingsModel(file: home.url.appendingPathComponent("settings.json"))
    let record = RecordFile(home.url.appendingPathComponent("measurements.jsonl"))
    let measurer = BundleMeasurer(
      FakeProvider(fake: FakeLoader()), settings: try BenchSettings(runs: 4, seconds: 1), versions: [:])
    let model = BenchModel(measurer, settings: settings, record: record)
    model.start(bundle, unit: .all)
    #expect(model.isRunning)
    await model.finish()
    #expect(!model.isRunning && model.error == nil)
    #expect(model.rows.compactMap { $0["component"]?.text } == ["text_encoder", "transformer", "decoder", "picture"])
    #expect(try record.rows().map { try $0.line() } == model.rows.map { try $0.line() })
    #expect((settings.values.measuredSeconds[bundle.title] ?? 0) > 0)
  }
}
