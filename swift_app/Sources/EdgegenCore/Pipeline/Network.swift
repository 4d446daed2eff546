/// One network that is open: from named inputs to named outputs, float32 whatever it computes in.
public protocol Network: AnyObject {
  func run(_ inputs: [String: Tensor]) throws -> [String: Tensor]
}

/// Opens the artifacts of one back end.
public protocol NetworkLoader {
  /// The back end's name in manifests.
  var backend: String { get }

  /// What runs the networks, for a record: "cpu", "all".
  var computeUnit: String { get }

  /// Opens a component. An error of its own says why it cannot be.
  func open(_ component: Component, of bundle: ModelBundle) throws -> any Network
}

/// What the text encoder says of a prompt: text, text_mask and pooled_text by name.
public typealias Condition = [String: Tensor]
