import EdgegenCore

/// The words of a command line: `--name value`, `--flag`, and what stands alone.
struct Arguments {
  private var options: [String: String] = [:]
  private var flags: Set<String> = []
  private(set) var words: [String] = []

  /// Takes the words apart; an option that is not among those known, or lacks its value, is an error.
  init(_ words: [String], options known: [String], flags knownFlags: [String]) throws {
    var rest = words[...]
    while let word = rest.popFirst() {
      guard word.hasPrefix("--") else {
        self.words.append(word)
        continue
      }
      let name = String(word.dropFirst(2))
      if knownFlags.contains(name) {
        flags.insert(name)
      } else if known.contains(name) {
        guard let value = rest.popFirst() else { throw EdgegenError(.badInput, "--\(name) lacks its value.") }
        options[name] = value
      } else {
        throw EdgegenError(.badInput, "there is no option --\(name).", "Try --help.")
      }
    }
  }

  func text(_ name: String) -> String? { options[name] }

  func has(_ flag: String) -> Bool { flags.contains(flag) }

  /// The value of an option as a number; one that is none is an error.
  func number<Value: LosslessStringConvertible>(_ name: String, as type: Value.Type = Value.self) throws -> Value? {
    guard let text = options[name] else { return nil }
    guard let value = Value(text) else {
      throw EdgegenError(
        .badInput, "--\(name) is \(text).", "Give a \(type == Double.self ? "number" : "whole number").")
    }
    return value
  }

  /// The value of an option that must be there.
  func required(_ name: String) throws -> String {
    guard let value = options[name] else { throw EdgegenError(.badInput, "--\(name) is missing.", "Try --help.") }
    return value
  }
}
