import Foundation

/// What is measured: one component of a bundle, or the whole picture.
public enum BenchSubject: Equatable, Sendable {
  case component(Component)
  case picture

  public var name: String {
    switch self {
    case .component(let component): component.name
    case .picture: "picture"
    }
  }

  /// All that a bundle has to measure on a back end, or the one of a name; an unknown name is an error.
  public static func all(of bundle: ModelBundle, on backend: String, named name: String? = nil) throws -> [BenchSubject]
  {
    let components = bundle.manifest.components(of: backend)
    let all = components.map(BenchSubject.component) + (ManifestChecks.isWhole(components) ? [.picture] : [])
    guard let name else { return all }
    let found = all.filter { $0.name == name }
    if found.isEmpty {
      throw EdgegenError(
        .badInput, "\(bundle.title) has no \(name) for \(backend).",
        "It has: \(all.map(\.name).joined(separator: ", ")).")
    }
    return found
  }

  /// Opens the subject; the closure runs it once, with a real prompt's ids and seeded noise.
  public func open(_ bundle: ModelBundle, _ loader: any NetworkLoader) throws -> () throws -> Void {
    switch self {
    case .component(let component):
      let inputs = try Self.inputs(of: component, bundle), network = try loader.open(component, of: bundle)
      return { _ = try network.run(inputs) }
    case .picture:
      let networks = try BundleNetworks(bundle, loader: loader)
      for role in Role.allCases { try networks.prewarm(role) }
      let pipeline = try Pipeline(networks, freesTextEncoder: false)
      let request = DrawRequest(prompt: bundle.manifest.prompts.first ?? "")
      return { _ = try pipeline.draw(request) }
    }
  }

  /// What a component is timed with: a prompt's ids, every text token real, features of a middle sigma, else noise.
  static func inputs(of component: Component, _ bundle: ModelBundle) throws -> [String: Tensor] {
    let ids = try bundle.tokenizers().encode(bundle.manifest.prompts.first ?? "").feed
    var inputs: [String: Tensor] = [:]
    for (index, spec) in component.inputs.enumerated() {
      switch spec.name {
      case "text_mask":
        inputs[spec.name] = Tensor(shape: spec.shape, values: [Float](repeating: 1, count: spec.shape.reduce(1, *)))
      case "timestep_features":
        inputs[spec.name] = Sampler.features(sigma: 0.5, bundle.manifest.timestepFeatures)
      default:
        inputs[spec.name] = try ids[spec.name] ?? Noise.standardNormal(shape: spec.shape, seed: UInt64(index))
      }
    }
    return inputs
  }
}
