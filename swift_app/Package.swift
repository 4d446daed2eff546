// swift-tools-version: 6.0
import Foundation
import PackageDescription

/// Where ONNX Runtime's header lies, from Debian's libonnxruntime-dev or Homebrew's onnxruntime. Without it the command
/// draws with Core ML alone; the app never needs it.
let onnxHeaders = ["/usr/include", "/opt/homebrew/include", "/usr/local/include"]
let hasOnnx = onnxHeaders.contains { FileManager.default.fileExists(atPath: "\($0)/onnxruntime/onnxruntime_c_api.h") }

let onnx: [Target] =
  hasOnnx
  ? [
    .systemLibrary(
      name: "COnnxRuntime", providers: [.apt(["libonnxruntime-dev"]), .brew(["onnxruntime"])]),
    .target(name: "EdgegenONNX", dependencies: ["EdgegenCore", "COnnxRuntime"]),
  ] : []

let package = Package(
  name: "Edgegen",
  defaultLocalization: "en",
  platforms: [.iOS(.v17), .macOS(.v14)],
  products: [
    .library(name: "EdgegenCore", targets: ["EdgegenCore"]),
    .executable(name: "edgegen-swift", targets: ["edgegen-swift"]),
  ],
  targets: [
    .target(
      name: "EdgegenCore",
      dependencies: [.target(name: "LinuxObservation", condition: .when(platforms: [.linux]))]),
    .target(name: "LinuxObservation"),
    .executableTarget(
      name: "edgegen-swift",
      dependencies: ["EdgegenCore"] + (hasOnnx ? ["EdgegenONNX"] : []),
      swiftSettings: hasOnnx ? [.define("WITH_ONNX")] : []),
    .testTarget(name: "EdgegenCoreTests", dependencies: ["EdgegenCore"]),
  ] + onnx
)
