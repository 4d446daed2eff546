import Foundation
import Testing

@testable import EdgegenCore

struct PipelineTests {
  private let folder = ScratchFolder()
  private let loader = FakeLoader()

  @Test func theTextEncoderIsFreedBeforeTheTransformerIsOpened() throws {
    let bundle = try TinyBundle.make(in: folder)
    let request = DrawRequest(prompt: "red heart", seed: 1, guidance: 1)
    _ = try Pipeline(try BundleNetworks(bundle, loader: loader)).draw(request)
    let steps = [String](repeating: "run transformer", count: 4)
    let expected =
      ["open text_encoder", "run text_encoder", "free text_encoder", "open transformer"] + steps
      + ["open decoder", "run decoder"]
    #expect(Array(loader.log.prefix(expected.count)) == expected)
  }

  @Test func stepsAndGuidanceAreTheSamplers() throws {
    let bundle = try TinyBundle.make(in: folder)
    let request = DrawRequest(prompt: "red heart", seed: 3)
    var latent = try Noise.standardNormal(shape: [1, 4, 2, 3], seed: 3).values
    let ids: (Float, Float) = (2 + 4 + 5 + 3, 2 + 3)  // of the prompt and of no prompt
    for (sigma, next) in zip([1, 0.9, 0.75, 0.5], [0.9, 0.75, 0.5, 0]) {
      let both = [ids.0, ids.1].map { [Float](repeating: latent[0] + $0, count: latent.count) }
      let velocity = Sampler.guide(both[0], both[1], guidance: 2.5)
      latent = Sampler.step(latent, velocity: velocity, from: sigma, to: next).latent
    }
    let drawing = try Pipeline(try BundleNetworks(bundle, loader: loader)).draw(request)
    #expect(loader.lastInputs["latent"]?.values == latent)  // what the decoder was given
    #expect((drawing.steps, drawing.guidance, drawing.seed) == (4, 2.5, 3))
    #expect(drawing.picture == Picture(width: 24, height: 16, rgb: [UInt8](repeating: 64, count: 3 * 24 * 16)))
  }

  @Test func chunksRunInTheManifestsOrder() throws {
    let bundle = try TinyBundle.make(in: folder, edit: { TinyBundle.chunked($0, on: "onnx") })
    let networks = try BundleNetworks(bundle, loader: loader)
    _ = try Pipeline(networks).draw(DrawRequest(prompt: "red", steps: 2, guidance: 1))
    #expect(loader.log.filter { $0.hasPrefix("open transformer") } == ["open transformer_1", "open transformer_2"])
    let run = loader.log.filter { $0.hasPrefix("run transformer") }
    #expect(run == ["run transformer_1", "run transformer_2", "run transformer_1", "run transformer_2"])
  }

  @Test func aStopTakesEffectBetweenSteps() throws {
    let bundle = try TinyBundle.make(in: folder)
    var steps = 0
    #expect(throws: CancellationError.self) {
      try Pipeline(try BundleNetworks(bundle, loader: loader)).draw(
        DrawRequest(prompt: "red", guidance: 1), isStopped: { steps == 2 },
        onEvent: { if case .stepped = $0 { steps += 1 } })
    }
    #expect(loader.log.filter { $0 == "run transformer" }.count == 2)
    #expect(!loader.log.contains("run decoder"))
  }

  @Test func previewsAreDecodedAtEveryStepButTheLast() throws {
    let bundle = try TinyBundle.make(in: folder)
    var events: [DrawEvent] = []
    let request = DrawRequest(prompt: "red", guidance: 1, wantsPreviews: true)
    _ = try Pipeline(try BundleNetworks(bundle, loader: loader)).draw(request, onEvent: { events.append($0) })
    let previews = events.map { event in
      if case .stepped(_, _, let preview) = event { return preview != nil }
      return false
    }
    #expect(previews == [true, true, true, false, false])
    #expect(events.last == .decoding)
  }

  @Test func valuesThatAreNotFiniteAreAnError() throws {
    loader.answersNaN = true
    let bundle = try TinyBundle.make(in: folder)
    expectError(.notFinite) {
      _ = try Pipeline(try BundleNetworks(bundle, loader: loader)).draw(DrawRequest(prompt: "red"))
    }
  }

  @Test(arguments: [
    DrawRequest(prompt: "", steps: 0), DrawRequest(prompt: "", steps: 1001),
    DrawRequest(prompt: "", guidance: -1), DrawRequest(prompt: "", guidance: .nan),
    DrawRequest(prompt: "", seed: .max),
  ])
  func aRequestOutOfRangeIsRefusedBeforeAnythingIsOpened(_ request: DrawRequest) throws {
    let bundle = try TinyBundle.make(in: folder)
    expectError(.badInput) { _ = try Pipeline(try BundleNetworks(bundle, loader: loader)).draw(request) }
    #expect(loader.log.isEmpty)
  }

  @Test func aBackEndThatTheBundleLacksIsRefused() throws {
    let bundle = try TinyBundle.make(in: folder)
    expectError(.incomplete) { _ = try BundleNetworks(bundle, loader: FakeLoader(backend: "coreai")) }
  }

  @Test func aLongPromptIsSaidToBeCut() throws {
    let bundle = try TinyBundle.make(in: folder)
    let networks = try BundleNetworks(bundle, loader: loader)
    let long = DrawRequest(prompt: String(repeating: "red ", count: 9))
    #expect(try Pipeline(networks).draw(long).isTruncated)
    #expect(try !Pipeline(networks).draw(DrawRequest(prompt: "red")).isTruncated)
  }
}
