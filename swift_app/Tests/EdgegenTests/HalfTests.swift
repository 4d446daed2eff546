import Testing

@testable import EdgegenCore

#if !((os(macOS) || targetEnvironment(macCatalyst)) && arch(x86_64))
  struct HalfTests {
    @Test func everyHalfHasItsValue() {
      for bits in UInt16.min...UInt16.max {
        let expected = Float(Float16(bitPattern: bits)), found = Half.value(bits)
        #expect(found == expected && found.sign == expected.sign || expected.isNaN && found.isNaN)
      }
    }

    @Test func valuesAreRoundedAsTheProcessorDoes() {
      var words = PCG64(seed: 5)
      let edges: [Float] = [
        0, -0.0, 65504, 65519, 65520, 65536, 1e-8, 5.9e-8, 2.98e-8, 2.99e-8, 6.1e-5, .infinity, 0x1p-14,
      ]
      let drawn = (0..<20_000).map { _ in Float(bitPattern: words.nextUInt32()) }
      let near = (0..<20_000).map { _ in (words.nextFloat() - 0.5) * 8 }
      for value in edges + edges.map({ -$0 }) + drawn + near where !value.isNaN {
        #expect(Half.bits(value) == Float16(value).bitPattern, "\(value)")
      }
      #expect(Half.value(Half.bits(.nan)).isNaN)
    }
  }
#endif
