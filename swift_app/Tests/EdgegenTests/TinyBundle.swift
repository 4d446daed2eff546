import Foundation

@testable import EdgegenCore

/// The vectors' bundle with a vocabulary that can be read, so that fake networks draw with it.
enum TinyBundle {
  static let word = """
    {"padding": {"strategy": {"Fixed": 8}}, "normalizer": {"type": "BertNormalizer"},
     "pre_tokenizer": {"type": "BertPreTokenizer"},
     "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
      "max_input_chars_per_word": 100,
      "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "red": 4, "heart": 5, "##s": 6}}}
    """

  /// Writes a bundle whose components are changed by `edit` and loads it.
  static func make(
    in folder: ScratchFolder, tier: String = "low-android", width: Double = 0.375,
    edit: ([JSONValue]) -> [JSONValue] = { $0 }
  ) throws -> ModelBundle {
    let whole = BundleVectors.whole
    var files = whole.files.merging(["tokenizer/word.json": word]) { _, new in new }
    var manifest = try JSONDecoder().decode([String: JSONValue].self, from: Data(whole.manifest.utf8))
    manifest["tier"] = .string(tier)
    manifest["width"] = .number(width)
    manifest["tokenizer"] = .array(try array(manifest["tokenizer"]).map(described))
    manifest["components"] = .array(edit(try array(manifest["components"])))
    files["manifest.json"] = try JSONValue.object(manifest).line()
    try folder.write(files)
    return try ModelBundle.load(folder.url)
  }

  /// Components with a back end's transformer in two chunks: the first makes `hidden`, the second reads it.
  static func chunked(_ components: [JSONValue], on backend: String) -> [JSONValue] {
    let hidden: JSONValue = ["name": "hidden", "shape": [1, 4, 2, 3], "dtype": "float32"]
    return components.flatMap { component -> [JSONValue] in
      guard component["name"] == "transformer", component["backend"]?.text == backend,
        case .object(var first) = component, case .object(var second) = component
      else { return [component] }
      (first["name"], first["outputs"]) = ("transformer_1", [hidden])
      (second["name"], second["inputs"]) = ("transformer_2", [hidden])
      return [.object(first), .object(second)]
    }
  }

  private static func array(_ value: JSONValue?) throws -> [JSONValue] {
    guard case .array(let items) = value else { throw EdgegenError(.badField, "no list") }
    return items
  }

  private static func described(_ file: JSONValue) -> JSONValue {
    guard file["name"] == "word", case .object(var entry) = file else { return file }
    entry["sha256"] = .string(Sha256.hex(of: word.utf8))
    entry["bytes"] = .integer(word.utf8.count)
    return .object(entry)
  }
}

/// Networks that compute something simple, and note what is opened, run and freed.
final class FakeLoader: NetworkLoader, @unchecked Sendable {  // each test uses one from one task at a time
  let backend: String
  let computeUnit = "fake"
  var log: [String] = []
  var lastInputs: [String: Tensor] = [:]
  var failsToOpen: String?
  var answersNaN = false
  var onStep: () -> Void = {}

  init(backend: String = "onnx") { self.backend = backend }

  func open(_ component: Component, of bundle: ModelBundle) throws -> any Network {
    log.append("open \(component.name)")
    if component.name == failsToOpen { throw EdgegenError(.runtime, "\(component.name) is refused.") }
    return FakeNetwork(component, self)
  }
}

final class FakeNetwork: Network {
  private let component: Component
  private let loader: FakeLoader

  init(_ component: Component, _ loader: FakeLoader) {
    self.component = component
    self.loader = loader
  }

  deinit { loader.log.append("free \(component.name)") }

  /// Every output is 0.25, and of the transformer also the first value of its first input; text is the ids' sum.
  func run(_ inputs: [String: Tensor]) throws -> [String: Tensor] {
    loader.log.append("run \(component.name)")
    loader.lastInputs = inputs
    if component.role == .transformer { loader.onStep() }
    var outputs: [String: Tensor] = [:]
    for spec in component.outputs {
      let value = loader.answersNaN && component.role == .transformer ? Float.nan : value(inputs)
      outputs[spec.name] = Tensor(
        shape: spec.shape, values: [Float](repeating: value, count: spec.shape.reduce(1, *)))
    }
    return outputs
  }

  private func value(_ inputs: [String: Tensor]) -> Float {
    switch component.role {
    case .textEncoder: inputs["word_ids"]!.values.reduce(0, +)
    case .transformer: inputs[component.inputs[0].name]!.values[0] + (inputs["text"]?.values[0] ?? 0)
    default: 0.25
    }
  }
}

/// Hands out one fake loader.
struct FakeProvider: LoaderProvider {
  let fake: FakeLoader
  var backends: [String] { [fake.backend] }

  func loader(backend: String, unit: ComputeUnit) throws -> any NetworkLoader { fake }
}
