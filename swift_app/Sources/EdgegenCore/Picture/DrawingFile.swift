import Foundation

extension Drawing {
  /// The drawing as a PNG file that carries what it takes to draw it again.
  public func png(bundle: ModelBundle) -> Data {
    PNG.encode(
      picture,
      texts: [
        ("Description", prompt), ("Software", "edgegen"),
        (
          "parameters",
          "\(prompt)\nSeed: \(seed), Steps: \(steps), Guidance: \(guidance), Model: \(bundle.title), "
            + "Bits: \(bundle.manifest.bits)"
        ),
      ])
  }
}
