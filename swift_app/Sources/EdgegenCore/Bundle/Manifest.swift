import Foundation

/// Name, static shape and NumPy dtype name of an input or output.
public struct TensorSpec: Codable, Equatable, Sendable {
  public let name: String
  public let shape: [Int]
  public let dtype: String

  public init(name: String, shape: [Int], dtype: String) {
    self.name = name
    self.shape = shape
    self.dtype = dtype
  }
}

/// One network on one back end; inputs are listed in call order.
public struct Component: Codable, Equatable, Sendable {
  public let name: String
  public let backend: String
  public let path: String  // inside the bundle, with forward slashes
  public let sha256: String
  public let bytes: Int
  public let residentBytes: Int  // of the weights as the runtime holds them
  public let form: String
  public let inputs: [TensorSpec]
  public let outputs: [TensorSpec]
  public let options: [String: String]?  // of the runtime's session

  enum CodingKeys: String, CodingKey {
    case name, backend, path, sha256, bytes, form, inputs, outputs, options
    case residentBytes = "resident_bytes"
  }
}

/// A tokenizer's file and how many ids it gives: `word` (WordPiece) or `byte`.
public struct TokenizerFile: Codable, Equatable, Sendable {
  public let name: String
  public let path: String
  public let sha256: String
  public let bytes: Int
  public let length: Int
}

/// How the transformer's input `timestep_features` is made of a sigma.
public struct TimestepFeatures: Codable, Equatable, Sendable {
  public let size: Int
  public let scale: Double
  public let maxPeriod: Double
  public let order: String

  enum CodingKeys: String, CodingKey {
    case size, scale, order
    case maxPeriod = "max_period"
  }
}

/// A further tier of a bundle: what is its own. The rest it shares with the first.
public struct TierPart: Codable, Equatable, Sendable {
  public let tier: String
  public let width: Double
  public let floorsDb: [String: Double]
  public let components: [Component]

  enum CodingKeys: String, CodingKey {
    case tier, width, components
    case floorsDb = "floors_db"
  }
}

/// What it takes to draw a picture, and where each part came from: `manifest.json` of a bundle.
public struct Manifest: Codable, Equatable, Sendable {
  public static let formatVersion = 1
  public static let fileName = "manifest.json"

  public let formatVersion: Int
  public let model: String
  public private(set) var tier: String
  public private(set) var width: Double
  public let resolution: [Int]  // pixels: width, height
  public let steps: Int
  public let sigmas: [Double]  // steps + 1 noise levels
  public let shift: Double
  public let guidance: Double
  public let bits: Double  // per stored weight
  public let latentShape: [Int]  // (1, C, h, w)
  public let timestepFeatures: TimestepFeatures
  public let tokenizer: [TokenizerFile]
  public let prompts: [String]
  public private(set) var floorsDb: [String: Double]
  public let checkpoint: [String: JSONValue]
  public let toolVersions: [String: String]
  public private(set) var components: [Component]
  public private(set) var tiers: [TierPart]?  // further ones, of which one is chosen at the start

  enum CodingKeys: String, CodingKey {
    case model, tier, width, resolution, steps, sigmas, shift, guidance, bits, tokenizer, prompts, checkpoint,
      components, tiers
    case formatVersion = "format_version"
    case latentShape = "latent_shape"
    case timestepFeatures = "timestep_features"
    case floorsDb = "floors_db"
    case toolVersions = "tool_versions"
  }

  /// The manifest once for each of its tiers, as if that were the only one; the first first.
  public var each: [Manifest] {
    var first = self
    first.tiers = tiers.map { _ in [] }
    return [first] + (tiers ?? []).map(at)
  }

  /// A further tier: on each of its back ends, what is not its own is the first tier's.
  private func at(_ part: TierPart) -> Manifest {
    let network = { (component: Component) in "\(component.role?.rawValue ?? component.name)/\(component.backend)" }
    let own = Set(part.components.map(network))
    let backends = Set(part.components.map(\.backend))
    let shared = components.filter { backends.contains($0.backend) && !own.contains(network($0)) }
    var found = self
    found.tier = part.tier
    found.width = part.width
    found.floorsDb = part.floorsDb
    found.components = shared + part.components
    found.tiers = []
    return found
  }

  /// The back ends in the order in which they are first named.
  public var backends: [String] {
    components.reduce(into: []) { found, component in
      if !found.contains(component.backend) { found.append(component.backend) }
    }
  }

  /// The components of a back end in the manifest's order.
  public func components(of backend: String) -> [Component] {
    components.filter { $0.backend == backend }
  }
}

/// Which part of the way from text to picture a component is.
public enum Role: String, Sendable, CaseIterable {
  case textEncoder = "text_encoder"
  case transformer
  case decoder
}

extension Component {
  /// The part a component is by its name; chunks of a transformer are `transformer` and a suffix, such as
  /// `transformer_2`, and run in the manifest's order.
  public var role: Role? {
    Role(rawValue: name) ?? (name.hasPrefix(Role.transformer.rawValue) ? .transformer : nil)
  }
}
