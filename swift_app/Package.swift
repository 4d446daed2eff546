// swift-tools-version: 6.0
import Foundation
import PackageDescription

/// Where ONNX Runtime's header lies, from Debian's libonnxruntime-dev or Homebrew's onnxruntime. Without it the command
/// draws with Core ML alone; the app never needs it.
let onnxHeaders = ["/usr/include", "/opt/homebrew/include", "/usr/local/include"]
let hasOnnx = onnxHeaders.contains { FileManager.default.fileExists(atPath: "\($0)/onnxruntime/onnxruntime_c_api.h") }

let onnxTargets: [Target] = [
  .systemLibrary(name: "COnnxRuntime", providers: [.apt(["libonnxruntime-dev"]), .brew(["onnxruntime"])]),
  .target(name: "EdgegenONNX", dependencies: ["EdgegenCore", "COnnxRuntime"]),
]

/// A copy that carries a bundle (`edgegen app ios`) has neither tests nor what only they need.
func isThere(_ folder: String) -> Bool {
  FileManager.default.fileExists(atPath: "\(Context.packageDirectory)/\(folder)")
}

/// Linux has no Core ML: tests run the code around it with a stand-in that replays what a test says.
#if os(Linux)
  let hasStub = isThere("Stubs")
#else
  let hasStub = false
#endif
let coreMLStub: [Target] = hasStub ? [.target(name: "CoreML", path: "Stubs/CoreML")] : []
let coreML: [Target.Dependency] = hasStub ? ["CoreML"] : []

let linuxObservation: Target.Dependency = .target(name: "LinuxObservation", condition: .when(platforms: [.linux]))
let coreMLOnMacs: Target.Dependency = .target(name: "EdgegenCoreML", condition: .when(platforms: [.macOS]))
let onnx: [Target.Dependency] = hasOnnx ? ["EdgegenONNX"] : []

let tests: [Target] = [.testTarget(name: "EdgegenTests", dependencies: ["EdgegenCore", "EdgegenCoreML"] + coreML)]

let targets: [Target] = [
  .target(name: "EdgegenCore", dependencies: [linuxObservation]),
  .target(name: "LinuxObservation"),
  .target(name: "EdgegenCoreML", dependencies: ["EdgegenCore"] + coreML),
  .target(name: "EdgegenCoreAI", dependencies: ["EdgegenCore"]),
  .executableTarget(
    name: "edgegen-swift", dependencies: ["EdgegenCore", coreMLOnMacs] + onnx,
    swiftSettings: hasOnnx ? [.define("WITH_ONNX")] : []),
]

let package = Package(
  name: "Edgegen",
  defaultLocalization: "en",
  platforms: [.iOS(.v17), .macOS(.v14)],
  products: [
    .library(name: "EdgegenApple", targets: ["EdgegenCore", "EdgegenCoreML", "EdgegenCoreAI"]),
    .executable(name: "edgegen-swift", targets: ["edgegen-swift"]),
  ],
  targets: targets + coreMLStub + (hasOnnx ? onnxTargets : []) + (isThere("Tests") ? tests : [])
)
