import CoreGraphics
import CoreTransferable
import EdgegenCore
import Foundation
import SwiftUI
import UniformTypeIdentifiers

extension Picture {
  /// As the screen takes it.
  var cgImage: CGImage? {
    guard let provider = CGDataProvider(data: Data(rgb) as CFData), let space = CGColorSpace(name: CGColorSpace.sRGB)
    else { return nil }
    return CGImage(
      width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 24, bytesPerRow: 3 * width, space: space,
      bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.none.rawValue), provider: provider, decode: nil,
      shouldInterpolate: true, intent: .defaultIntent)
  }
}

/// A PNG file to share or save; it carries prompt and seed.
struct PNGFile: Transferable, FileDocument {
  static let readableContentTypes = [UTType.png]

  let data: Data

  init(data: Data) { self.data = data }

  init(configuration: ReadConfiguration) throws { data = configuration.file.regularFileContents ?? Data() }

  func fileWrapper(configuration: WriteConfiguration) throws -> FileWrapper {
    FileWrapper(regularFileWithContents: data)
  }

  static var transferRepresentation: some TransferRepresentation {
    DataRepresentation(exportedContentType: .png) { $0.data }
  }
}
