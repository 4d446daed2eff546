import Foundation

/// Ids of a prompt at the encoders' fixed lengths; an absent encoder's are nil.
public struct TokenIds: Equatable, Sendable {
  public let word: [Int32]?
  public let byte: [Int32]?
  public let isTruncated: Bool  // some encoder did not see the whole prompt

  /// The text encoder's inputs by name, each (1, length).
  public var feed: [String: Tensor] {
    var feed: [String: Tensor] = [:]
    if let word { feed["word_ids"] = Tensor(shape: [1, word.count], ids: word) }
    if let byte { feed["byte_ids"] = Tensor(shape: [1, byte.count], ids: byte) }
    return feed
  }
}

/// The tokenizers of a bundle: `word` (WordPiece) and `byte`, either of which may be missing.
public struct Tokenizers: Sendable {
  private let word: WordTokenizer?
  private let byte: ByteTokenizer?

  /// Reads the files by their manifest's names.
  public init(files: [String: Data]) throws {
    word = try files["word"].map { try WordTokenizer(json: $0) }
    byte = try files["byte"].map { data in
      guard let byte = try? JSONDecoder().decode(ByteTokenizer.self, from: data), byte.length > 0 else {
        throw EdgegenError(.badTokenizer, "byte.json cannot be read.", "Export the bundle again.")
      }
      return byte
    }
    if word == nil && byte == nil {
      throw EdgegenError(.badTokenizer, "the bundle has neither word.json nor byte.json.", "Export it again.")
    }
  }

  public func encode(_ prompt: String) -> TokenIds {
    let words = word?.encode(prompt), bytes = byte?.encode(prompt)
    return TokenIds(
      word: words?.ids, byte: bytes?.ids, isTruncated: (words?.isCut ?? false) || (bytes?.isCut ?? false))
  }
}
