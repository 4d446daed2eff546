import Foundation

/// The three networks of a bundle on one back end; each is opened at its first use.
///
/// The text encoder can be freed before the transformer is opened, so that their memory does not add up. A transformer
/// of several chunks runs them in the manifest's order: what one gives is what the next is given, by name.
public final class BundleNetworks {
  public let bundle: ModelBundle
  private let loader: any NetworkLoader
  private let onOpening: (Component) -> Void
  private let chains: [Role: [Component]]
  private var open: [Role: [any Network]] = [:]

  /// Refuses a bundle that lacks a role on the loader's back end; `onOpening` is told before a component is opened.
  public init(
    _ bundle: ModelBundle, loader: any NetworkLoader, onOpening: @escaping (Component) -> Void = { _ in }
  ) throws {
    self.bundle = bundle
    self.loader = loader
    self.onOpening = onOpening
    let pairs = try Role.allCases.map { ($0, try bundle.components($0, on: loader.backend)) }
    chains = Dictionary(uniqueKeysWithValues: pairs)
  }

  /// The condition of a prompt's ids.
  public func encode(_ ids: TokenIds) throws -> Condition { try run(.textEncoder, ids.feed) }

  /// The velocity at a latent (1, C, h, w) and a sigma.
  public func velocity(_ latent: Tensor, sigma: Double, _ condition: Condition) throws -> [Float] {
    let features = Sampler.features(sigma: sigma, bundle.manifest.timestepFeatures)
    let feed = condition.merging(["latent": latent, "timestep_features": features]) { _, new in new }
    return try output("velocity", of: .transformer, feed)
  }

  /// The picture of a latent, values in [0, 1], (3, H, W).
  public func decode(_ latent: Tensor) throws -> [Float] {
    try output("image", of: .decoder, ["latent": latent])
  }

  /// Opens what is not open yet.
  public func prewarm(_ role: Role) throws { _ = try networks(of: role) }

  /// Frees the networks of a role; they are opened again when they are used again.
  public func unload(_ role: Role) { open[role] = nil }

  private func networks(of role: Role) throws -> [any Network] {
    if let found = open[role] { return found }
    let opened = try chains[role, default: []].map { component in
      onOpening(component)
      return try loader.open(component, of: bundle)
    }
    open[role] = opened
    return opened
  }

  /// Runs the chunks of a role in order; gives all that they gave.
  private func run(_ role: Role, _ inputs: [String: Tensor]) throws -> [String: Tensor] {
    var known = inputs, given: [String: Tensor] = [:]
    for (component, network) in zip(chains[role, default: []], try networks(of: role)) {
      let outputs = try network.run(try feed(component, from: known))
      try check(outputs, of: component)
      known.merge(outputs) { _, new in new }
      given.merge(outputs) { _, new in new }
    }
    return given
  }

  private func output(_ name: String, of role: Role, _ inputs: [String: Tensor]) throws -> [Float] {
    guard let found = try run(role, inputs)[name] else {
      throw EdgegenError(.runtime, "\(role.rawValue) gave no \(name).", "Export the bundle again.")
    }
    return found.values
  }

  /// The inputs a component lists; one that nothing gives, or of another shape, is an error.
  private func feed(_ component: Component, from known: [String: Tensor]) throws -> [String: Tensor] {
    var feed: [String: Tensor] = [:]
    for spec in component.inputs {
      guard let tensor = known[spec.name], tensor.shape == spec.shape else {
        let found = known[spec.name].map { "\($0.shape)" } ?? "missing"
        throw EdgegenError(
          .badShape, "\(component.name)'s input \(spec.name) is \(found), it takes \(spec.shape).",
          "Export the bundle again.")
      }
      feed[spec.name] = tensor
    }
    return feed
  }

  private func check(_ outputs: [String: Tensor], of component: Component) throws {
    for spec in component.outputs where outputs[spec.name]?.shape != spec.shape {
      let found = outputs[spec.name].map { "\($0.shape)" } ?? "missing"
      throw EdgegenError(
        .badShape, "\(component.name)'s output \(spec.name) is \(found), the manifest says \(spec.shape).",
        "Export the bundle again.")
    }
  }
}
