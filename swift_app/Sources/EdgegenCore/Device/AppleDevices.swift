/// Apple's own counting of its devices in edgegen's names (targets/devices) and with their chips.
public enum AppleDevices {
  /// edgegen's name of a model such as iPhone16,1; of an unknown one the model itself, of a Mac "host".
  public static func name(of model: String) -> String {
    if let known = known[model] { return known.name }
    let isMac = model.hasPrefix("Mac") || model == "arm64" || model == "x86_64"
    return isMac ? "host" : model.lowercased()
  }

  /// The chip of a model, where it is known.
  public static func chip(of model: String) -> String? { known[model].map { "Apple \($0.chip)" } }

  private static let known: [String: (name: String, chip: String)] = [
    "iPhone13,1": ("iphone12mini", "A14"), "iPhone13,2": ("iphone12", "A14"), "iPhone13,3": ("iphone12pro", "A14"),
    "iPhone13,4": ("iphone12pm", "A14"), "iPhone14,5": ("iphone13", "A15"), "iPhone14,3": ("iphone13pm", "A15"),
    "iPhone14,7": ("iphone14", "A15"), "iPhone15,2": ("iphone14pro", "A16"), "iPhone15,4": ("iphone15", "A16"),
    "iPhone16,1": ("iphone15pro", "A17 Pro"), "iPhone16,2": ("iphone15pm", "A17 Pro"),
    "iPhone17,3": ("iphone16", "A18"), "iPhone17,1": ("iphone16pro", "A18 Pro"),
    "iPhone17,2": ("iphone16pm", "A18 Pro"), "iPhone18,3": ("iphone17", "A19"),
    "iPhone18,1": ("iphone17pro", "A19 Pro"), "iPhone18,2": ("iphone17pm", "A19 Pro"),
    "iPad13,4": ("ipadprom1", "M1"), "iPad13,5": ("ipadprom1", "M1"), "iPad13,8": ("ipadprom1", "M1"),
    "iPad13,9": ("ipadprom1", "M1"), "iPad14,3": ("ipadprom2", "M2"), "iPad14,4": ("ipadprom2", "M2"),
    "iPad14,5": ("ipadprom2", "M2"), "iPad14,6": ("ipadprom2", "M2"), "iPad15,3": ("ipadairm3", "M3"),
    "iPad15,4": ("ipadairm3", "M3"), "iPad15,5": ("ipadairm3", "M3"), "iPad15,6": ("ipadairm3", "M3"),
    "iPad16,3": ("ipadprom4", "M4"), "iPad16,4": ("ipadprom4", "M4"), "iPad16,5": ("ipadprom4", "M4"),
    "iPad16,6": ("ipadprom4", "M4"),
  ]
}
