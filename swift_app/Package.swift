// swift-tools-version: 6.0
import PackageDescription

let package = Package(
  name: "Edgegen",
  defaultLocalization: "en",
  platforms: [.iOS(.v17), .macOS(.v14)],
  products: [
    .library(name: "EdgegenCore", targets: ["EdgegenCore"])
  ],
  targets: [
    .target(
      name: "EdgegenCore",
      dependencies: [.target(name: "LinuxObservation", condition: .when(platforms: [.linux]))]),
    .target(name: "LinuxObservation"),
    .testTarget(name: "EdgegenCoreTests", dependencies: ["EdgegenCore"]),
  ]
)
