/// Refuses a manifest whose values cannot be drawn with.
enum ManifestChecks {
  static let backends = ["coreml", "coreai", "onnx", "executorch"]
  static let guidanceLimit = 100.0
  static let stepsLimit = 1000
  /// Options of a runtime's session that edgegen sets; others could make it read or write where it should not.
  static let options = ["session.qdq_matmulnbits_accuracy_level": "4"]
  static let elementLimit = 1 << 28  // of a tensor: far above any picture, far below what overflows

  static func check(_ manifest: Manifest) throws {
    try checkNumbers(manifest)
    try checkSigmas(manifest)
    try checkShapes(manifest)
    try checkComponents(manifest)
  }

  private static func checkNumbers(_ m: Manifest) throws {
    guard m.resolution.count == 2 else {
      throw EdgegenError(.badField, "resolution must have 2 entries, found \(m.resolution.count).", remedy)
    }
    guard m.timestepFeatures.order == "cos,sin" else {
      throw EdgegenError(.badField, "timestep_features.order is \(m.timestepFeatures.order), not cos,sin.", remedy)
    }
    try check((1...stepsLimit).contains(m.steps), "steps \(m.steps) is outside 1 to \(stepsLimit).")
    try check(m.shift > 0 && m.shift.isFinite, "shift \(m.shift) must be above 0.")
    try check(
      m.guidance >= 0 && m.guidance < guidanceLimit, "guidance \(m.guidance) is outside 0 to \(guidanceLimit).")
    try check(
      m.timestepFeatures.scale.isFinite && m.timestepFeatures.maxPeriod > 0,
      "timestep_features have a scale of \(m.timestepFeatures.scale) and a period of \(m.timestepFeatures.maxPeriod).")
  }

  private static func checkSigmas(_ m: Manifest) throws {
    let falls = zip(m.sigmas, m.sigmas.dropFirst()).allSatisfy { $0 > $1 }
    guard m.sigmas.count == m.steps + 1, m.sigmas.first == 1, m.sigmas.last == 0, falls else {
      throw EdgegenError(.badSigmas, "sigmas \(m.sigmas) are not \(m.steps + 1) that fall from 1 to 0.", remedy)
    }
  }

  private static func checkShapes(_ m: Manifest) throws {
    try checkShape(
      m.latentShape.count == 4 && m.latentShape.first == 1, "latent_shape \(m.latentShape) is not (1, C, h, w).")
    try checkShape(m.resolution.allSatisfy { $0 > 0 }, "resolution \(m.resolution) is not positive.")
    try checkSize(m.latentShape, "latent_shape")
    try checkSize([3] + m.resolution, "resolution")
    let size = m.timestepFeatures.size
    try checkShape(size > 0 && size % 2 == 0 && size <= elementLimit, "timestep_features.size \(size) is not even.")
  }

  private static func checkComponents(_ m: Manifest) throws {
    for component in m.components {
      guard backends.contains(component.backend) else {
        throw EdgegenError(.badField, "back end \(component.backend) is not known to this app.", "Update the app.")
      }
      for (key, value) in component.options ?? [:] {
        try check(options[key] == value, "\(component.name) sets \(key) to \(value), which edgegen never does.")
      }
      for spec in component.inputs + component.outputs {
        try checkSize(spec.shape, "\(component.name)'s \(spec.name)")
        try checkShape(
          expected(spec, of: component, in: m),
          "\(component.name)'s \(spec.name) is \(spec.shape), the bundle's is another.")
      }
    }
    let whole = m.backends.contains { backend in isWhole(m.components(of: backend)) }
    guard whole else {
      throw EdgegenError(.incomplete, "no back end of the bundle has text encoder, transformer and decoder.", remedy)
    }
  }

  /// Whether components can draw: at least one of each role.
  static func isWhole(_ components: [Component]) -> Bool {
    Role.allCases.allSatisfy { role in components.contains { $0.role == role } }
  }

  /// Whether a tensor has the shape that the manifest's own fields give it; true where they say nothing.
  private static func expected(_ spec: TensorSpec, of component: Component, in m: Manifest) -> Bool {
    switch spec.name {
    case "latent", "velocity": spec.shape == m.latentShape
    case "image": spec.shape == [1, 3, m.resolution[1], m.resolution[0]]
    case "timestep_features": spec.shape == [1, m.timestepFeatures.size, 1, 1]
    case "word_ids", "byte_ids":
      m.tokenizer.contains { "\($0.name)_ids" == spec.name && spec.shape == [1, $0.length] }
    default: true
    }
  }

  private static func checkSize(_ shape: [Int], _ what: String) throws {
    var elements = 1
    for side in shape {
      let (product, overflow) = elements.multipliedReportingOverflow(by: side)
      try checkShape(side > 0 && !overflow && product <= elementLimit, "\(what) \(shape) is out of range.")
      elements = product
    }
  }

  private static func check(_ holds: Bool, _ message: String) throws {
    if !holds { throw EdgegenError(.badValue, message, remedy) }
  }

  private static func checkShape(_ holds: Bool, _ message: String) throws {
    if !holds { throw EdgegenError(.badShape, message, remedy) }
  }

  private static let remedy = "Export the bundle again."
}
