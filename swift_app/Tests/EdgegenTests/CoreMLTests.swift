#if os(Linux)
  import CoreML  // the stand-in of Stubs/
  import Foundation
  import Testing

  @testable import EdgegenCore
  @testable import EdgegenCoreML

  /// A Core ML that notes what it is asked and can refuse.
  private final class FakeCoreML {
    let scratch = ScratchFolder()
    var compiled: [String] = []
    var loaded: [String] = []
    var refusesToLoad: Set<MLComputeUnits> = []
    var refusesToPredict: Set<MLComputeUnits> = []
    var refusesToCompile = false
    var brokenForms: Set<String> = []  // compiled forms that do not load
    var inputs: [String: MLMultiArray] = [:]
    var fed: [[String]] = []  // the names of each run's inputs, sorted
    var gives: [String: [Int]] = ["image": [1, 3, 16, 24]]  // outputs and their shapes
    var padding = 0

    static let halves: [UInt16] = (0..<1152).map { (index: Int) -> UInt16 in Half.bits(Float(index) / 2048) }

    private struct Refusal: LocalizedError {
      let errorDescription: String? = "refused"
    }

    func install() {
      MLModel.replay = Replay(compile: compile, load: load, predict: predict)
    }

    private func compile(_ package: URL) throws -> URL {
      if refusesToCompile { throw Refusal() }
      compiled.append(package.lastPathComponent)
      let made = scratch.url.appendingPathComponent("\(UUID().uuidString).mlmodelc")
      try FileManager.default.createDirectory(at: made, withIntermediateDirectories: true)
      try Data("\(compiled.count)".utf8).write(to: made.appendingPathComponent("form"))
      return made
    }

    private func load(_ url: URL, _ units: MLComputeUnits) throws {
      loaded.append("\(units)")
      let form = try String(contentsOf: url.appendingPathComponent("form"), encoding: .utf8)
      if refusesToLoad.contains(units) || brokenForms.contains(form) { throw Refusal() }
    }

    private func predict(_ url: URL, _ units: MLComputeUnits, _ input: any MLFeatureProvider) throws
      -> any MLFeatureProvider
    {
      if refusesToPredict.contains(units) { throw Refusal() }
      for name in input.featureNames { inputs[name] = input.featureValue(for: name)?.multiArrayValue }
      fed.append(input.featureNames.sorted())
      return try MLDictionaryFeatureProvider(dictionary: gives.mapValues { array($0) })
    }

    private func array(_ shape: [Int]) -> MLMultiArray {
      let array = MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: .float16, padding: padding)
      array.withUnsafeMutableBytes { bytes, strides in
        StridedOffsets(shape: shape, strides: strides).write(Self.halves, to: bytes)
      }
      return array
    }
  }

  @Suite(.serialized) struct CoreMLTests {
    private let folder = ScratchFolder(), caches = ScratchFolder()
    private let core = FakeCoreML()
    private let latent = Tensor(shape: [1, 4, 2, 3], values: (0..<24).map { Float($0) + 0.1 })

    init() { core.install() }

    private func cache(_ system: String = "1A") -> CompiledModelCache {
      CompiledModelCache(folder: caches.url, system: system)
    }

    private func decoder(of bundle: ModelBundle) throws -> Component {
      try #require(bundle.components(.decoder, on: "coreml").first)
    }

    /// A bundle whose Core ML decoder takes and gives float16, as edgegen writes it.
    private func bundle() throws -> ModelBundle {
      try TinyBundle.make(in: folder) { components in
        components.map { component in
          guard component["backend"] == "coreml", case .object(var entry) = component else { return component }
          for key in ["inputs", "outputs"] { entry[key] = Self.halved(entry[key]) }
          return .object(entry)
        }
      }
    }

    private static func halved(_ specs: JSONValue?) -> JSONValue? {
      guard case .array(let items)? = specs else { return specs }
      return .array(
        items.map { item in
          guard item["dtype"] == "float32", case .object(var spec) = item else { return item }
          spec["dtype"] = "float16"
          return .object(spec)
        })
    }

    @Test func aModelIsCompiledOnceForEachRelease() throws {
      let bundle = try bundle(), decoder = try decoder(of: bundle)
      #expect(!cache().holds(decoder))
      for _ in 0..<2 { _ = try CoreMLLoader(cache(), unit: .all).open(decoder, of: bundle) }
      #expect(core.compiled == ["decoder.mlpackage"] && cache().holds(decoder))
      _ = try CoreMLLoader(cache("2B"), unit: .all).open(decoder, of: bundle)
      #expect(core.compiled.count == 2)
      cache("2B").prune(keeping: [decoder])
      #expect(!cache().holds(decoder) && cache("2B").holds(decoder))
      cache("2B").prune(keeping: [])
      #expect(!cache("2B").holds(decoder))
    }

    @Test func nothingIsKeptOfACompileThatFails() throws {
      let bundle = try bundle(), decoder = try decoder(of: bundle)
      core.refusesToCompile = true
      expectError(.runtime) { _ = try CoreMLLoader(cache(), unit: .all).open(decoder, of: bundle) }
      #expect(!cache().holds(decoder))
      #expect(try FileManager.default.contentsOfDirectory(atPath: caches.url.path).isEmpty)
    }

    @Test func aCompiledFormThatDoesNotLoadIsMadeAnew() throws {
      let bundle = try bundle(), decoder = try decoder(of: bundle)
      core.brokenForms = ["1"]
      _ = try CoreMLLoader(cache(), unit: .cpu).open(decoder, of: bundle)
      #expect(core.compiled.count == 2)
    }

    @Test func aUnitThatRefusesToLoadIsPassedOver() throws {
      let bundle = try bundle(), decoder = try decoder(of: bundle)
      core.refusesToLoad = [.cpuAndNeuralEngine]
      let loader = CoreMLLoader(cache(), unit: .neuralEngine)
      #expect(loader.computeUnit == "cpu_and_ne")
      _ = try loader.open(decoder, of: bundle)
      #expect(core.loaded == ["cpuAndNeuralEngine", "cpuAndGPU"] && loader.computeUnit == "cpu_and_gpu")
    }

    @Test func aUnitThatRefusesToRunIsLeftForGood() throws {
      let bundle = try bundle(), decoder = try decoder(of: bundle)
      core.refusesToPredict = [.all, .cpuAndGPU]
      let loader = CoreMLLoader(cache(), unit: .all)
      let network = try loader.open(decoder, of: bundle)
      for _ in 0..<2 { #expect(try network.run(["latent": latent])["image"]?.shape == [1, 3, 16, 24]) }
      #expect(core.loaded == ["all", "cpuAndGPU", "cpuOnly"] && loader.computeUnit == "all,cpu_and_gpu,cpu")
    }

    @Test func whatNoUnitRunsIsOneMessage() throws {
      let bundle = try bundle(), decoder = try decoder(of: bundle)
      core.refusesToPredict = [.all, .cpuAndGPU, .cpuOnly]
      let network = try CoreMLLoader(cache(), unit: .all).open(decoder, of: bundle)
      expectError(.runtime) { _ = try network.run(["latent": latent]) }
      core.refusesToLoad = [.all, .cpuAndGPU, .cpuOnly]
      expectError(.runtime) { _ = try CoreMLLoader(cache(), unit: .all).open(decoder, of: bundle) }
    }

    @Test(arguments: [0, 8]) func elementsAreWrittenAndReadWhereTheyLie(_ padding: Int) throws {
      let bundle = try bundle()
      core.padding = padding
      let network = try CoreMLLoader(cache(), unit: .all).open(try decoder(of: bundle), of: bundle)
      let image = try #require(try network.run(["latent": latent])["image"])
      let expected: [Float] = FakeCoreML.halves.map(Half.value)
      #expect(image.values == expected)
      let given = try #require(core.inputs["latent"])
      #expect(given.dataType == .float16)
      let spec = TensorSpec(name: "latent", shape: latent.shape, dtype: "float16")
      let written: [Float] = try MultiArrays.tensor(of: given, spec).values
      let rounded: [Float] = latent.values.map { Half.value(Half.bits($0)) }
      #expect(written == rounded)
    }

    @Test func chunksRunInTheManifestsOrder() throws {
      let bundle = try TinyBundle.make(in: folder) { TinyBundle.chunked($0, on: "coreml") }
      core.gives = ["hidden": [1, 4, 2, 3], "velocity": [1, 4, 2, 3]]
      let networks = try BundleNetworks(bundle, loader: CoreMLLoader(cache(), unit: .all))
      let condition = try #require(bundle.components(.textEncoder, on: "coreml").first).outputs.map { spec in
        (spec.name, Tensor(shape: spec.shape, values: [Float](repeating: 1, count: spec.shape.reduce(1, *))))
      }
      let velocity = try networks.velocity(latent, sigma: 0.5, Dictionary(uniqueKeysWithValues: condition))
      #expect(velocity == FakeCoreML.halves.prefix(24).map(Half.value))
      #expect(core.fed == [["latent", "pooled_text", "text", "text_mask", "timestep_features"], ["hidden"]])
    }

    @Test func anInputThatDidNotChangeIsNotWrittenAgain() throws {
      let bundle = try bundle()
      let network = try CoreMLLoader(cache(), unit: .all).open(try decoder(of: bundle), of: bundle)
      _ = try network.run(["latent": latent])
      let first = core.inputs["latent"]
      _ = try network.run(["latent": latent])
      #expect(core.inputs["latent"] === first)
      _ = try network.run(["latent": Tensor(shape: latent.shape, values: latent.values.map { -$0 })])
      #expect(core.inputs["latent"] !== first)
    }

    @Test func anOutputOfAnotherShapeIsRefused() throws {
      let array = MLMultiArray(shape: [1, 2], dataType: .float32, padding: 0)
      expectError(.badShape) {
        _ = try MultiArrays.tensor(of: array, TensorSpec(name: "image", shape: [2, 1], dtype: "float32"))
      }
      expectError(.badField) {
        let spec = TensorSpec(name: "x", shape: [1], dtype: "bfloat16")
        _ = try MultiArrays.array(of: Tensor(shape: [1], values: [1]), spec)
      }
    }
  }
#endif
