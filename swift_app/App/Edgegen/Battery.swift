import EdgegenCore
import Foundation

#if os(iOS)
  import UIKit
#endif

/// The battery as it was last told, readable from any thread: a bench notes it beside its times.
final class Battery: @unchecked Sendable {  // the lock guards what changes
  private let lock = NSLock()
  private var state: (isCharging: Bool?, level: Double?) = (nil, nil)

  @MainActor init() {
    #if os(iOS)
      UIDevice.current.isBatteryMonitoringEnabled = true
      for name in [UIDevice.batteryStateDidChangeNotification, UIDevice.batteryLevelDidChangeNotification] {
        NotificationCenter.default.addObserver(forName: name, object: nil, queue: .main) { [weak self] _ in
          MainActor.assumeIsolated { self?.read() }
        }
      }
      read()
    #endif
  }

  func conditions() -> DeviceConditions {
    let (isCharging, level) = lock.withLock { state }
    return .now(isCharging: isCharging, battery: level)
  }

  #if os(iOS)
    @MainActor private func read() {
      let device = UIDevice.current
      let isCharging = device.batteryState == .unknown ? nil : device.batteryState != .unplugged
      let level = device.batteryLevel < 0 ? nil : Double(device.batteryLevel)
      lock.withLock { state = (isCharging, level) }
    }
  #endif
}
