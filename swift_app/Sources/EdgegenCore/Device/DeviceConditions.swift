import Foundation

/// What makes a phone slower today than yesterday.
public struct DeviceConditions: Equatable, Sendable {
  public let isCharging: Bool?  // nil: the system does not say
  public let battery: Double?  // 0 to 1
  public let savesPower: Bool?
  public let thermal: String?  // none, light, moderate, severe

  public init(isCharging: Bool? = nil, battery: Double? = nil, savesPower: Bool? = nil, thermal: String? = nil) {
    (self.isCharging, self.battery) = (isCharging, battery)
    (self.savesPower, self.thermal) = (savesPower, thermal)
  }

  /// What this process can tell without a screen; the app adds the battery.
  public static func now(isCharging: Bool? = nil, battery: Double? = nil) -> DeviceConditions {
    #if canImport(Darwin)
      let info = ProcessInfo.processInfo
      return DeviceConditions(
        isCharging: isCharging, battery: battery, savesPower: info.isLowPowerModeEnabled,
        thermal: name(of: info.thermalState))
    #else
      return DeviceConditions(isCharging: isCharging, battery: battery)
    #endif
  }

  #if canImport(Darwin)
    private static func name(of state: ProcessInfo.ThermalState) -> String {
      switch state {
      case .nominal: "none"
      case .fair: "light"
      case .serious: "moderate"
      case .critical: "severe"
      @unknown default: "unknown"
      }
    }
  #endif

  static func json(before: DeviceConditions, after: DeviceConditions) -> JSONValue {
    [
      "charging": .optional(after.isCharging), "battery": after.battery.map { .number($0) } ?? .null,
      "power_save": .optional(after.savesPower), "thermal_before": .optional(before.thermal),
      "thermal_after": .optional(after.thermal),
    ]
  }
}
