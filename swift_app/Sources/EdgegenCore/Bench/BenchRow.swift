import Foundation

/// A measurement as a row of edgegen's records, read by `edgegen bench --import`.
public enum BenchRow {
  /// The row of a subject measured on a device. Memory is told of a process that has held nothing else: what another
  /// network freed is taken again without being seen.
  public static func make(
    _ timing: Timing, of subject: BenchSubject, bundle: ModelBundle, loader: any NetworkLoader,
    settings: BenchSettings, device: DeviceFacts, before: DeviceConditions, after: DeviceConditions,
    versions: [String: String], tellsMemory: Bool, date: Date = Date()
  ) throws -> JSONValue {
    let summary = try timing.summary
    let facts: [String: JSONValue] = [
      "source": "measured", "device": .string(device.device), "compute_unit": .string(loader.computeUnit),
      "date": .string(timestamp(date)), "commit": .null, "machine": device.json,
      "conditions": DeviceConditions.json(before: before, after: after),
      "versions": .object(versions.mapValues { .string($0) }),
    ]
    let times: [String: JSONValue] = [
      "partial": .bool(timing.isPartial), "noisy": .bool(summary.cvTrimmed > Statistics.noiseLimit),
      "settings": settingsJSON(settings, timing, subject, bundle),
      "load_ms": rounded(timing.loadMilliseconds), "first_ms": rounded(timing.firstMilliseconds),
      "latency_ms": latency(summary, timing.runs), "memory": tellsMemory ? memory(timing) : .null,
    ]
    return .object(
      facts.merging(identity(subject, bundle, loader.backend)) { _, new in new }.merging(times) { _, new in new })
  }

  /// Which artifact a row is about; the picture is about all of a back end's.
  private static func identity(_ subject: BenchSubject, _ bundle: ModelBundle, _ backend: String) -> [String: JSONValue]
  {
    let m = bundle.manifest
    let components: [Component] =
      switch subject {
      case .component(let component): [component]
      case .picture: m.components(of: backend)
      }
    return [
      "model": .string(m.model), "tier": .string(m.tier), "width": .number(m.width),
      "resolution": .array(m.resolution.map { .integer($0) }), "bits": .number(m.bits), "bundle": .string(bundle.title),
      "component": .string(subject.name), "backend": .string(backend), "form": .optional(components.first?.form),
      "artifacts": .array(components.map(described)),
    ]
  }

  private static func described(_ component: Component) -> JSONValue {
    [
      "path": .string(component.path), "sha256": .string(component.sha256), "bytes": .integer(component.bytes),
      "resident_bytes": .integer(component.residentBytes),
    ]
  }

  private static func settingsJSON(
    _ settings: BenchSettings, _ timing: Timing, _ subject: BenchSubject, _ bundle: ModelBundle
  ) -> JSONValue {
    var values: [String: JSONValue] = [
      "runs": .integer(settings.runs), "seconds": .number(settings.seconds), "warmup": .integer(settings.warmup),
      "threads": .integer(settings.threads), "block": .integer(timing.block), "in_turn_with": [],
    ]
    if subject == .picture { values["steps"] = .integer(bundle.manifest.steps) }
    return .object(values)
  }

  private static func latency(_ summary: Summary, _ runs: [Double]) -> JSONValue {
    [
      "n": .integer(summary.n), "min": rounded(summary.min), "p50": rounded(summary.p50), "p90": rounded(summary.p90),
      "p95": rounded(summary.p95), "max": rounded(summary.max), "trimmed_mean": rounded(summary.trimmedMean),
      "cv": rounded(summary.cv), "cv_trimmed": rounded(summary.cvTrimmed), "runs": .array(runs.map(rounded)),
    ]
  }

  private static func memory(_ timing: Timing) -> JSONValue {
    guard timing.peakBytes > 0 else { return .null }
    return [
      "base_bytes": .integer(timing.baseBytes), "loaded_bytes": .integer(timing.loadedBytes),
      "peak_bytes": .integer(timing.peakBytes),
      "peak_over_base_bytes": .integer(timing.peakBytes - timing.baseBytes),
    ]
  }

  /// Four decimals.
  private static func rounded(_ value: Double) -> JSONValue { .number((value * 1e4).rounded() / 1e4) }

  /// As Python's `datetime.isoformat` in UTC to the second.
  static func timestamp(_ date: Date) -> String {
    let style = Date.ISO8601FormatStyle(timeZone: TimeZone(secondsFromGMT: 0)!)
    return String(date.formatted(style).dropLast()) + "+00:00"
  }
}
