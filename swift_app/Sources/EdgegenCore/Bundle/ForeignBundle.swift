import Foundation

/// A bundle of another project's networks (`format_version` 2): what it needs, by the names that it gives itself.
///
/// This app draws with none of them; `refusal` says so. Names come from a file that anyone may have written.
struct ForeignBundle {
  private static let formatVersion = 2

  private let isPipeline: Bool
  private let model: String  // class of the transformer, or of the first network where there is none
  private let needs: [String]  // such as "sampler SCM", of a family that edgegen knows
  private let pipeline: String?  // class, which the manifest tells, or the index where it is older
  private let scheduler: String?

  /// Nil where a field is missing or of a wrong type; `index` is only asked where a pipeline may have one.
  init?(_ manifest: [String: JSONValue], index: () -> JSONValue?) {
    guard manifest["format_version"] == .integer(Self.formatVersion), let told = manifest["pipeline"],
      let kind = told["kind"]?.text, ["network", "pipeline"].contains(kind),
      case .object(let networks)? = told["networks"],
      let network = networks["transformer"] ?? networks.min(by: { $0.key < $1.key })?.value,
      let model = network["class"].flatMap(Self.name), let needs = Self.needs(of: network)
    else { return nil }
    self.isPipeline = kind == "pipeline"
    self.model = model
    self.needs = needs
    let isNamed = told["class"] != nil && told["scheduler"] != nil
    let found = isPipeline && !isNamed ? index() : nil
    pipeline = Self.name(told["class"] ?? found?["_class_name"] ?? .null)
    scheduler = told["scheduler"].map { $0["class"].flatMap(Self.name) } ?? Self.scheduler(of: found)
    if told["class"] != nil && pipeline == nil || told["scheduler"] != nil && scheduler == nil { return nil }
  }

  /// What the app says of it, and what can be done instead.
  var refusal: EdgegenError {
    EdgegenError(
      .foreignNetworks,
      "\(Manifest.fileName): this bundle is \(described); this app draws with edgegen's own networks and "
        + "flow-matching Euler.",
      isPipeline
        ? "On a computer, edgegen generate draws with it."
        : "On a computer, edgegen verify runs it.")
  }

  private var described: String {
    let noted = needs.isEmpty ? "" : " (\(needs.joined(separator: ", ")))"
    guard isPipeline else { return "a lone network, \(model)\(noted)" }
    let what = pipeline.map { "\($0) with \(model)" } ?? model
    return "a pipeline, \(what)\(scheduler.map { ", that draws with \($0)" } ?? "")\(noted)"
  }

  /// Nil where one is no name.
  private static func needs(of network: JSONValue) -> [String]? {
    var found: [String] = []
    for key in needed {
      guard let value = network[key] else { continue }
      guard let name = name(value) else { return nil }
      found.append("\(key) \(name)")
    }
    return found
  }

  /// The class in `["diffusers", "SCMScheduler"]`.
  private static func scheduler(of index: JSONValue?) -> String? {
    guard case .array(let entry)? = index?["scheduler"], entry.count == 2 else { return nil }
    return name(entry[1])
  }

  /// A text as one may show it: short, and of letters that cannot hide others; nil for what is no text or empty.
  private static func name(_ value: JSONValue) -> String? {
    guard let text = value.text, !text.isEmpty else { return nil }
    let start = text.unicodeScalars.prefix(longest + 1).map { plain.contains($0) ? Character($0) : "?" }
    return start.count > longest ? String(start.prefix(longest - 1)) + "…" : String(start)
  }

  private static let needed = ["sampler", "prediction", "guidance"]
  private static let longest = 48  // of "StableDiffusion3ControlNetInpaintingPipeline" there are 44
  private static let plain = Set(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 _-+.".unicodeScalars)
}
