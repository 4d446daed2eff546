/// The version of this app and command; edgegen's own.
public enum AppVersion {
  public static let current = "0.1.0"
}
