/// A vocabulary, and the longest pieces of it that make up a word.
struct WordPieces: Sendable {
  // By UTF-8 bytes: Swift takes strings for equal that differ in their code points.
  private let first: [[UInt8]: Int32]  // pieces that begin a word
  private let following: [[UInt8]: Int32]  // pieces behind another, without their prefix
  private let unknown: Int32
  private let limit: Int  // code points of a word that is still looked up
  private let longest: Int  // code points of the longest piece

  init(_ model: WordFile.Model) throws {
    guard let unknown = model.vocab[model.unk_token] else {
      throw EdgegenError(.badTokenizer, "word.json lacks \(model.unk_token).", "Export the bundle again.")
    }
    let prefix = model.continuing_subword_prefix
    var following: [[UInt8]: Int32] = [:]
    for (piece, id) in model.vocab where !prefix.isEmpty && piece.hasPrefix(prefix) {
      following[Array(piece.utf8.dropFirst(prefix.utf8.count))] = id
    }
    first = Dictionary(uniqueKeysWithValues: model.vocab.map { (Array($0.key.utf8), $0.value) })
    self.following = following
    self.unknown = unknown
    limit = model.max_input_chars_per_word
    longest = model.vocab.keys.map(\.unicodeScalars.count).max() ?? 0
  }

  /// The ids of a word's pieces; the unknown id alone where a piece is missing or the word is too long.
  func ids(of word: [Unicode.Scalar]) -> [Int32] {
    guard word.count <= limit else { return [unknown] }
    var ids: [Int32] = []
    var start = 0
    while start < word.count {
      guard let (id, end) = longestPiece(of: word, from: start) else { return [unknown] }
      ids.append(id)
      start = end
    }
    return ids
  }

  private func longestPiece(of word: [Unicode.Scalar], from start: Int) -> (id: Int32, end: Int)? {
    let table = start == 0 ? first : following
    for end in stride(from: min(word.count, start + longest), to: start, by: -1) {
      if let id = table[word[start..<end].flatMap { Array(UTF8.encode($0)!) }] { return (id, end) }
    }
    return nil
  }
}
