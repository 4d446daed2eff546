/// What a phone may run a network on.
public enum ComputeUnit: String, CaseIterable, Codable, Sendable {
  case all
  case neuralEngine = "cpu_and_ne"
  case gpu = "cpu_and_gpu"
  case cpu

  /// What to try, in order, when a unit refuses a network: the wish first, the processor, which takes all, last.
  public var fallbacks: [ComputeUnit] {
    switch self {
    case .all, .neuralEngine: [self, .gpu, .cpu]
    case .gpu: [.gpu, .cpu]
    case .cpu: [.cpu]
    }
  }
}
