import Foundation

/// WordPiece over a prompt's words, as the `tokenizers` library runs a bundle's `word.json`.
public struct WordTokenizer: Sendable {
  public let length: Int  // ids, padded with 0
  private let pieces: WordPieces
  private let opening: Int32  // [CLS]
  private let closing: Int32  // [SEP]

  /// Reads `word.json`; one of another kind than edgegen writes is an error.
  public init(json: Data) throws {
    do {
      let file = try JSONDecoder().decode(WordFile.self, from: json)
      guard file.model.type == "WordPiece", file.normalizer.type == "BertNormalizer",
        file.pre_tokenizer.type == "BertPreTokenizer"
      else {
        throw Self.unreadable("it is \(file.model.type) behind \(file.normalizer.type)")
      }
      guard let opening = file.model.vocab["[CLS]"], let closing = file.model.vocab["[SEP]"] else {
        throw Self.unreadable("it lacks [CLS] or [SEP]")
      }
      length = file.padding.strategy.Fixed
      pieces = try WordPieces(file.model)
      (self.opening, self.closing) = (opening, closing)
    } catch let error as DecodingError {
      throw Self.unreadable("\(error)")
    }
    guard length > 1 else { throw Self.unreadable("its length is \(length)") }
  }

  /// Ids cut or padded to `length`, and whether they were cut; cut ids still end in [SEP].
  public func encode(_ prompt: String) -> (ids: [Int32], isCut: Bool) {
    var ids = [opening]
    for word in Words(PromptNormalizer.normalize(prompt)) {
      ids += pieces.ids(of: word)
      if ids.count > length { break }  // what follows is cut, whatever it is
    }
    return PaddedIds.fit(ids + [closing], length: length, closing: closing)
  }

  private static func unreadable(_ why: String) -> EdgegenError {
    EdgegenError(.badTokenizer, "word.json cannot be read: \(why).", "Export the bundle again.")
  }
}

/// What is read of `word.json`, under the names it has there.
struct WordFile: Decodable {
  struct Kind: Decodable { let type: String }
  struct Strategy: Decodable { let Fixed: Int }
  struct Padding: Decodable { let strategy: Strategy }
  struct Model: Decodable {
    let type: String
    let unk_token: String
    let continuing_subword_prefix: String
    let max_input_chars_per_word: Int
    let vocab: [String: Int32]
  }

  let padding: Padding
  let normalizer: Kind
  let pre_tokenizer: Kind
  let model: Model
}

/// The words of a normalized prompt: split at white space, each punctuation mark a word of its own.
struct Words: Sequence, IteratorProtocol {
  private let scalars: String.UnicodeScalarView
  private var at: String.UnicodeScalarView.Index

  init(_ scalars: String.UnicodeScalarView) {
    self.scalars = scalars
    at = scalars.startIndex
  }

  mutating func next() -> [Unicode.Scalar]? {
    while at < scalars.endIndex, UnicodeRules.isSpace(scalars[at]) { scalars.formIndex(after: &at) }
    guard at < scalars.endIndex else { return nil }
    var word: [Unicode.Scalar] = []
    while at < scalars.endIndex, !UnicodeRules.isSpace(scalars[at]) {
      let isPunctuation = UnicodeRules.isPunctuation(scalars[at])
      if isPunctuation && !word.isEmpty { break }
      word.append(scalars[at])
      scalars.formIndex(after: &at)
      if isPunctuation { break }
    }
    return word
  }
}
