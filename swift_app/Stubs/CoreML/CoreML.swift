// The few names of Apple's Core ML that EdgegenCoreML uses, for tests on Linux: a model here is what a test says it is.
// Signatures follow Apple's; nothing of this is built on an Apple system.
import Foundation

public enum MLComputeUnits: Int, Sendable {
  case cpuOnly = 0
  case cpuAndGPU = 1
  case all = 2
  case cpuAndNeuralEngine = 3
}

public final class MLModelConfiguration {
  public var computeUnits = MLComputeUnits.all

  public init() {}
}

public enum MLMultiArrayDataType: Int, Sendable {
  case double = 65600
  case float32 = 65568
  case float16 = 65552
  case int32 = 131104

  var bytes: Int {
    switch self {
    case .double: 8
    case .float32, .int32: 4
    case .float16: 2
    }
  }
}

/// An array in memory; `padding` elements follow each row, as some of Apple's are laid out.
public final class MLMultiArray {
  public let shape: [NSNumber]
  public let strides: [NSNumber]
  public let dataType: MLMultiArrayDataType
  private let storage: UnsafeMutableRawBufferPointer

  public convenience init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws {
    self.init(shape: shape, dataType: dataType, padding: 0)
  }

  public init(shape: [NSNumber], dataType: MLMultiArrayDataType, padding: Int) {
    self.shape = shape
    self.dataType = dataType
    var strides = [Int](repeating: 1, count: shape.count)
    for axis in stride(from: shape.count - 2, through: 0, by: -1) {
      strides[axis] = strides[axis + 1] * shape[axis + 1].intValue + (axis == shape.count - 2 ? padding : 0)
    }
    self.strides = strides.map { NSNumber(value: $0) }
    storage = .allocate(byteCount: max(1, dataType.bytes * strides[0] * shape[0].intValue), alignment: 64)
    storage.initializeMemory(as: UInt8.self, repeating: 0xFF)  // not a number, so that an element left out is seen
  }

  deinit { storage.deallocate() }

  public var count: Int { shape.reduce(1) { $0 * $1.intValue } }

  public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
    try body(UnsafeRawBufferPointer(storage))
  }

  public func withUnsafeMutableBytes<R>(_ body: (UnsafeMutableRawBufferPointer, [Int]) throws -> R) rethrows -> R {
    try body(storage, strides.map(\.intValue))
  }
}

public final class MLFeatureValue {
  public let multiArrayValue: MLMultiArray?

  public init(multiArray: MLMultiArray) { multiArrayValue = multiArray }
}

public protocol MLFeatureProvider {
  var featureNames: Set<String> { get }
  func featureValue(for featureName: String) -> MLFeatureValue?
}

public final class MLDictionaryFeatureProvider: MLFeatureProvider {
  private let values: [String: MLFeatureValue]

  public init(dictionary: [String: Any]) throws {
    values = dictionary.compactMapValues { value in
      value as? MLFeatureValue ?? (value as? MLMultiArray).map { MLFeatureValue(multiArray: $0) }
    }
  }

  public var featureNames: Set<String> { Set(values.keys) }
  public func featureValue(for featureName: String) -> MLFeatureValue? { values[featureName] }
}

/// What a test lets Core ML do.
public struct Replay {
  public var compile: (URL) throws -> URL
  public var load: (URL, MLComputeUnits) throws -> Void
  public var predict: (URL, MLComputeUnits, any MLFeatureProvider) throws -> any MLFeatureProvider

  public init(
    compile: @escaping (URL) throws -> URL, load: @escaping (URL, MLComputeUnits) throws -> Void,
    predict: @escaping (URL, MLComputeUnits, any MLFeatureProvider) throws -> any MLFeatureProvider
  ) {
    (self.compile, self.load, self.predict) = (compile, load, predict)
  }
}

public final class MLModel {
  nonisolated(unsafe) public static var replay: Replay!  // tests that set it run one at a time

  private let url: URL
  private let units: MLComputeUnits

  public init(contentsOf url: URL, configuration: MLModelConfiguration) throws {
    (self.url, units) = (url, configuration.computeUnits)
    try Self.replay.load(url, units)
  }

  public static func compileModel(at modelURL: URL) throws -> URL { try replay.compile(modelURL) }

  public func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider {
    try Self.replay.predict(url, units, input)
  }
}
