import Foundation

/// A prompt as the word tokenizer reads it: cleaned, decomposed, without accents, in lower case.
enum PromptNormalizer {
  static func normalize(_ prompt: String) -> String.UnicodeScalarView {
    let cleaned = clean(prompt.unicodeScalars)
    let decomposed = String(cleaned).decomposedStringWithCanonicalMapping
    var result = String.UnicodeScalarView()
    for scalar in decomposed.unicodeScalars where !UnicodeRules.isNonspacingMark(scalar) {
      for low in lowered(scalar) { result.append(low) }  // one by one: appending a sequence copies what is there
    }
    return result
  }

  /// Without control characters, any white space a space, and Chinese characters apart.
  private static func clean(_ scalars: String.UnicodeScalarView) -> String.UnicodeScalarView {
    var result = String.UnicodeScalarView()
    for scalar in scalars where !UnicodeRules.isDropped(scalar) {
      if UnicodeRules.isSpace(scalar) {
        result.append(" ")
      } else if UnicodeRules.isChinese(scalar) {
        for each in [" ", scalar, " "] { result.append(each) }
      } else {
        result.append(scalar)
      }
    }
    return result
  }

  /// By code point, without regard to what stands beside it: a sigma at a word's end is no other sigma.
  private static func lowered(_ scalar: Unicode.Scalar) -> [Unicode.Scalar] {
    guard scalar.isASCII else { return Array(scalar.properties.lowercaseMapping.unicodeScalars) }
    let isCapital = (0x41...0x5A).contains(scalar.value)
    return [isCapital ? Unicode.Scalar(UInt8(scalar.value) + 0x20) : scalar]
  }
}
