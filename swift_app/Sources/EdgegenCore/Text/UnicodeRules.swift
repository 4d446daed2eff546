/// What the word tokenizer asks of a code point, by the tables of Unicode that `tokenizers` was built with.
///
/// Its categories are those of Unicode 8: what was assigned later has none, and so is neither dropped, nor a mark, nor
/// punctuation. Asking for the age makes the answer the same on every release of an operating system.
enum UnicodeRules {
  private static let categoriesVersion: (major: Int, minor: Int) = (8, 0)

  /// A control, format or private-use character, U+0000 or U+FFFD, but no tab, line feed or carriage return.
  static func isDropped(_ scalar: Unicode.Scalar) -> Bool {
    if scalar == "\t" || scalar == "\n" || scalar == "\r" { return false }
    if scalar.value == 0xFFFD { return true }
    switch category(of: scalar) {
    case .control, .format, .privateUse: return true
    default: return false
    }
  }

  static func isSpace(_ scalar: Unicode.Scalar) -> Bool { scalar.properties.isWhitespace }

  static func isNonspacingMark(_ scalar: Unicode.Scalar) -> Bool { category(of: scalar) == .nonspacingMark }

  /// An ASCII symbol, or any character of a category P*.
  static func isPunctuation(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x21...0x2F, 0x3A...0x40, 0x5B...0x60, 0x7B...0x7E: return true
    case ..<0x80: return false
    default: break
    }
    switch category(of: scalar) {
    case .connectorPunctuation, .dashPunctuation, .openPunctuation, .closePunctuation, .initialPunctuation,
      .finalPunctuation, .otherPunctuation:
      return true
    default: return false
    }
  }

  /// A Chinese character, which is a word of its own.
  static func isChinese(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x4E00...0x9FFF, 0x3400...0x4DBF, 0xF900...0xFAFF: true
    case 0x20000...0x2A6DF, 0x2A700...0x2B73F, 0x2B740...0x2B81F, 0x2B920...0x2CEAF, 0x2F800...0x2FA1F: true
    default: false
    }
  }

  private static func category(of scalar: Unicode.Scalar) -> Unicode.GeneralCategory {
    guard let age = scalar.properties.age else {
      return scalar.properties.generalCategory == .privateUse ? .privateUse : .unassigned
    }
    return age <= categoriesVersion ? scalar.properties.generalCategory : .unassigned
  }
}
