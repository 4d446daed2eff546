import EdgegenCore
import Foundation

/// `edgegen-swift bench`: measures a bundle's components and picture in order, as rows of edgegen's records.
struct BenchCommand {
  private let bundle: ModelBundle
  private let backend: String?
  private let component: String?
  private let unit: ComputeUnit
  private let settings: BenchSettings
  private let record: RecordFile
  private let isJSON: Bool

  init(_ words: [String]) throws {
    let arguments = try Arguments(
      words, options: ["bundle", "backend", "component", "unit", "runs", "seconds", "threads", "record"],
      flags: ["json"])
    guard arguments.words.isEmpty else { throw EdgegenError(.badInput, "\(arguments.words[0]) is not understood.") }
    bundle = try ModelBundle.load(URL(fileURLWithPath: try arguments.required("bundle")))
    backend = arguments.text("backend")
    component = arguments.text("component")
    unit = try GenerateCommand.unit(arguments.text("unit"))
    settings = try BenchSettings(
      runs: try arguments.number("runs") ?? 20, seconds: try arguments.number("seconds") ?? 10,
      threads: try arguments.number("threads") ?? 1)
    record = RecordFile(URL(fileURLWithPath: arguments.text("record") ?? "measurements.jsonl"))
    isJSON = arguments.has("json")
  }

  func run() throws {
    let loaders = Loaders(threads: settings.threads)
    let name = try backend ?? bundle.backend(among: loaders.backends)
    let measurer = BundleMeasurer(
      loaders, settings: settings, versions: try loaders.versions(backend: name), tellsMemory: component != nil)
    for subject in try BenchSubject.all(of: bundle, on: name, named: component) {
      Console.tell("measuring \(subject.name) on \(name)")
      guard let row = try measurer.measure(subject, bundle, try loaders.loader(backend: name, unit: unit)) else {
        continue
      }
      try record.append(row)
      print(isJSON ? try row.line() : summary(row))
    }
    Console.tell("Recorded: \(record.url.path)")
  }

  private func summary(_ row: JSONValue) -> String {
    let latency = row["latency_ms"]
    let told = ["p50", "min", "p95"].map { String(format: "%.3g", latency?[$0]?.double ?? .nan) }
    return "\(row["component"]?.text ?? ""): median \(told[0]) ms (\(told[1]) to \(told[2])), "
      + "\(Int(latency?["n"]?.double ?? 0)) runs\(row["noisy"] == true ? ", noisy" : "")"
  }
}
