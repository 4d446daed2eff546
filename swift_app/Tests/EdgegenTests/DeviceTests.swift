import Foundation
import Testing

@testable import EdgegenCore

struct DeviceTests {
  @Test func namesAreThoseOfTheDevicesThatShip() throws {
    let folder = Vectors.repository.appendingPathComponent("targets/devices")
    let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).map {
      $0.replacingOccurrences(of: ".toml", with: "")
    }
    for model in ["iPhone13,2", "iPhone16,1", "iPhone18,2", "iPad14,5", "iPad16,3"] {
      #expect(names.contains(AppleDevices.name(of: model)), "\(model)")
      #expect(AppleDevices.chip(of: model) != nil)
    }
    #expect(AppleDevices.name(of: "iPhone99,1") == "iphone99,1")
    #expect(AppleDevices.name(of: "Mac15,3") == "host" && AppleDevices.chip(of: "Mac15,3") == nil)
  }

  @Test func thisDeviceIsTold() {
    let facts = DeviceFacts.current()
    #expect(facts.cores > 0 && facts.memoryBytes > 1 << 28 && !facts.processor.isEmpty && !facts.system.isEmpty)
    #expect(MemoryMeter.peakBytes() > 1 << 20)
  }

  @Test func whatDoesNotFitIsSaidWithItsCause() throws {
    let folder = ScratchFolder()
    let bundle = try TinyBundle.make(in: folder)
    let needed = MemoryCheck.needed(bundle, backend: "onnx")
    let resident = bundle.manifest.components(of: "onnx").map(\.residentBytes)
    #expect(needed == 2 * max(resident[0], resident[1] + resident[2]))
    #expect(MemoryCheck(bundle, backend: "onnx", availableBytes: needed).fits)
    #expect(MemoryCheck(bundle, backend: "onnx", availableBytes: nil).fits)
    let tight = MemoryCheck(bundle, backend: "onnx", availableBytes: needed - 1)
    #expect(!tight.fits)
    expectError(.notEnoughMemory) { try tight.require(bundle) }
  }
}

struct TierChoiceTests {
  private let folders = [ScratchFolder(), ScratchFolder()]

  private func bundles() throws -> [ModelBundle] {
    [
      try TinyBundle.make(in: folders[0], tier: "low", width: 0.375),
      try TinyBundle.make(in: folders[1], tier: "full", width: 1),
    ]
  }

  private func choose(
    memory: Int? = nil, model: String? = nil, measured: [String: Double] = [:], override: String? = nil
  ) throws -> TierChoice? {
    TierChoice.choose(
      try bundles(), backends: ["onnx"], availableBytes: memory, model: model, measuredSeconds: measured,
      override: override)
  }

  @Test func theWidestThatFitsIsChosen() throws {
    let choice = try choose()
    #expect(choice?.bundle.title == "tiny/full" && choice?.reason == .widestThatFits)
  }

  @Test func withoutMemoryItIsTheSmallest() throws {
    #expect(try choose(memory: 1)?.bundle.title == "tiny/low")
    #expect(try choose(memory: 1)?.reason == .smallestOfAll)
  }

  @Test func whatWasMeasuredSlowIsPassedOver() throws {
    #expect(try choose(measured: ["tiny/full": 30])?.bundle.title == "tiny/low")
    let quick = try choose(measured: ["tiny/full": 3])
    #expect(quick?.bundle.title == "tiny/full" && quick?.reason == .measuredQuickEnough)
  }

  @Test func anOldPhoneTakesTheSmallest() throws {
    #expect(try choose(model: "iPhone12,1")?.bundle.title == "tiny/low")
    #expect(try choose(model: "iPhone13,2")?.bundle.title == "tiny/full")
    #expect(try choose(model: "iPad8,1")?.bundle.title == "tiny/full")
  }

  @Test func theUserHasTheLastWord() throws {
    let choice = try choose(measured: ["tiny/full": 30], override: "tiny/full")
    #expect(choice?.bundle.title == "tiny/full" && choice?.reason == .chosenByUser)
    #expect(try choose(override: "gone")?.bundle.title == "tiny/full")
    #expect(TierChoice.choose([], backends: ["onnx"], availableBytes: nil) == nil)
  }
}
