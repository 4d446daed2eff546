import EdgegenCore
import Foundation

/// `edgegen-swift generate`: draws a picture with a bundle's artifacts.
struct GenerateCommand {
  private let bundle: ModelBundle
  private let request: DrawRequest
  private let backend: String?
  private let unit: ComputeUnit
  private let out: URL
  private let isJSON: Bool

  init(_ words: [String]) throws {
    let arguments = try Arguments(
      words, options: ["bundle", "backend", "unit", "seed", "steps", "guidance", "out"], flags: ["json"])
    guard arguments.words.count == 1 else {
      throw EdgegenError(.badInput, "\(arguments.words.count) prompts were given.", "Give one, in quotes.")
    }
    bundle = try ModelBundle.load(URL(fileURLWithPath: try arguments.required("bundle")))
    request = DrawRequest(
      prompt: arguments.words[0], seed: try arguments.number("seed") ?? 0, steps: try arguments.number("steps"),
      guidance: try arguments.number("guidance"))
    backend = arguments.text("backend")
    unit = try Self.unit(arguments.text("unit"))
    out = URL(fileURLWithPath: arguments.text("out") ?? "picture.png")
    isJSON = arguments.has("json")
  }

  func run() throws {
    let loaders = Loaders(threads: Loaders.usualThreads())
    let name = try backend ?? bundle.backend(among: loaders.backends)
    let networks = try BundleNetworks(bundle, loader: try loaders.loader(backend: name, unit: unit))
    let drawing = try Pipeline(networks).draw(request, onEvent: Self.tell)
    try Console.write(drawing.png(bundle: bundle), to: out)
    if drawing.isTruncated { Console.tell("warning: the prompt is longer than the text encoders take.") }
    print(isJSON ? try document(drawing, name).line() : summary(drawing, name))
  }

  private static func tell(_ event: DrawEvent) {
    if case .stepped(let index, let count, _) = event { Console.tell("step \(index) of \(count)") }
  }

  static func unit(_ name: String?) throws -> ComputeUnit {
    guard let name else { return .all }
    guard let unit = ComputeUnit(rawValue: name) else {
      let known = ComputeUnit.allCases.map(\.rawValue).joined(separator: ", ")
      throw EdgegenError(.badInput, "there is no compute unit \(name).", "Known: \(known).")
    }
    return unit
  }

  private func summary(_ drawing: Drawing, _ backend: String) -> String {
    "\(out.path): \(drawing.steps) steps, guidance \(drawing.guidance), seed \(drawing.seed), \(backend), "
      + String(format: "%.2f s", drawing.seconds)
  }

  /// The drawing, with the ids and the noise it began with, so that another can be compared with it bit for bit.
  private func document(_ drawing: Drawing, _ backend: String) throws -> JSONValue {
    let ids = try bundle.tokenizers().encode(drawing.prompt)
    let noise = try Noise.standardNormal(shape: bundle.manifest.latentShape, seed: drawing.seed)
    return [
      "picture": .string(out.path), "prompt": .string(drawing.prompt), "bundle": .string(bundle.root.path),
      "backend": .string(backend), "seed": .integer(Int(drawing.seed)), "steps": .integer(drawing.steps),
      "guidance": .number(drawing.guidance), "truncated": .bool(drawing.isTruncated),
      "seconds": .number(drawing.seconds), "word_ids": json(ids.word), "byte_ids": json(ids.byte),
      "noise_sha256": .string(noise.sha256),
    ]
  }

  private func json(_ ids: [Int32]?) -> JSONValue { ids.map { .array($0.map { .integer(Int($0)) }) } ?? .null }
}
