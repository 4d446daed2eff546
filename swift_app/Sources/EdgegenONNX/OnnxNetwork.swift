import COnnxRuntime
import EdgegenCore
import Foundation

/// One ONNX file that is open.
final class OnnxNetwork: Network {
  private let library: OnnxLibrary
  private let session: OpaquePointer
  private let component: Component

  /// Takes over the session.
  init(_ library: OnnxLibrary, _ session: OpaquePointer, _ component: Component) {
    self.library = library
    self.session = session
    self.component = component
  }

  deinit { library.api.ReleaseSession(session) }

  func run(_ inputs: [String: Tensor]) throws -> [String: Tensor] {
    let fed = try component.inputs.map { spec in
      guard let tensor = inputs[spec.name] else {
        throw EdgegenError(.badShape, "input \(spec.name) of \(component.name) is missing.")
      }
      return try OnnxValue(tensor, library)
    }
    let given = try call(fed)
    return Dictionary(
      uniqueKeysWithValues: try zip(component.outputs, given).map { ($0.name, try $1.tensor(of: $0)) })
  }

  private func call(_ values: [OnnxValue]) throws -> [OnnxValue] {
    let inputNames = CStrings(component.inputs.map(\.name)), outputNames = CStrings(component.outputs.map(\.name))
    var results = [OpaquePointer?](repeating: nil, count: component.outputs.count)
    // Swift may free an object after its last use, and C uses what lies behind these pointers after that.
    let status = withExtendedLifetime((values, inputNames, outputNames)) {
      library.api.Run(
        session, nil, inputNames.pointers, values.map(\.pointer), values.count, outputNames.pointers, results.count,
        &results)
    }
    try library.check(status)
    return results.compactMap { $0 }.map { OnnxValue($0, library) }
  }
}

/// Names as C takes them, alive as long as this.
private final class CStrings {
  let pointers: [UnsafePointer<CChar>?]

  init(_ names: [String]) { pointers = names.map { UnsafePointer(strdup($0)) } }

  deinit { pointers.forEach { free(UnsafeMutablePointer(mutating: $0)) } }
}
