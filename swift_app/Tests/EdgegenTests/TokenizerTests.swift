import Foundation
import Testing

@testable import EdgegenCore

private struct PromptVectors: Decodable {
  struct Repeated: Decodable {
    let `repeat`: String
    let times: Int
  }

  struct Case: Decodable, CustomTestStringConvertible {
    let name: String
    let prompt: String
    let word: [Int32]
    let byte: [Int32]
    let isCut: Bool

    enum CodingKeys: String, CodingKey { case name, prompt, word, byte, word_cut, byte_cut }

    init(from decoder: Decoder) throws {
      let values = try decoder.container(keyedBy: CodingKeys.self)
      name = try values.decode(String.self, forKey: .name)
      word = try values.decode([Int32].self, forKey: .word)
      byte = try values.decode([Int32].self, forKey: .byte)
      let cuts = [CodingKeys.word_cut, .byte_cut]
      isCut = try cuts.contains { try values.decode(Bool.self, forKey: $0) }
      if let rule = try? values.decode(Repeated.self, forKey: .prompt) {
        prompt = String(repeating: rule.repeat, count: rule.times)
      } else {
        prompt = try values.decode(String.self, forKey: .prompt)
      }
    }

    var testDescription: String { name }
  }

  let tokenizer: String
  let lengths: [String: Int]
  let cases: [Case]
}

struct TokenizerTests {
  private static let vectors = Vectors.read("prompts", as: PromptVectors.self)
  private static let tokenizers: Tokenizers = {
    let folder = Vectors.repository.appendingPathComponent(vectors.tokenizer)
    let files = ["word", "byte"].map { ($0, try! Data(contentsOf: folder.appendingPathComponent("\($0).json"))) }
    return try! Tokenizers(files: Dictionary(uniqueKeysWithValues: files))
  }()

  @Test(arguments: vectors.cases)
  private func idsAreEdgegens(_ expected: PromptVectors.Case) {
    let ids = Self.tokenizers.encode(expected.prompt)
    #expect(ids.word == padded(expected.word, "word"))
    #expect(ids.byte == padded(expected.byte, "byte"))
    #expect(ids.isTruncated == expected.isCut)
  }

  private func padded(_ ids: [Int32], _ name: String) -> [Int32] {
    ids + [Int32](repeating: 0, count: Self.vectors.lengths[name]! - ids.count)
  }

  @Test(arguments: ["{}", "", "{\"model\": {\"type\": \"BPE\"}}", "[]"])
  func aWordFileOfAnotherKindIsRefused(_ text: String) {
    expectError(.badTokenizer) { _ = try WordTokenizer(json: Data(text.utf8)) }
    expectError(.badTokenizer) { _ = try Tokenizers(files: ["byte": Data(text.utf8)]) }
  }

  @Test func aBundleWithoutTokenizersIsRefused() {
    expectError(.badTokenizer) { _ = try Tokenizers(files: [:]) }
  }
}
