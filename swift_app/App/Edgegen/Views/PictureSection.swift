import EdgegenCore
import SwiftUI

/// The picture, or what the step under way aims at.
struct PictureSection: View {
  @Environment(AppModel.self) private var model
  @State private var isSaving = false

  var body: some View {
    if let drawing = model.generator.drawing {
      Section {
        PictureView(picture: drawing.picture).accessibilityLabel(Text(verbatim: drawing.prompt))
        if drawing.isTruncated {
          Label("The prompt was too long; its end was left out.", systemImage: "scissors")
        }
        LabeledContent(
          "Time", value: Duration.seconds(drawing.seconds), format: .units(fractionalPart: .show(length: 1)))
        LabeledContent("Seed", value: drawing.seed, format: .number.grouping(.never))
        if let png = model.generator.png { sharing(PNGFile(data: png)) }
      }
    } else if let preview = model.generator.preview {
      Section {
        PictureView(picture: preview).accessibilityLabel("Preview of the picture")
      }
    }
  }

  private func sharing(_ file: PNGFile) -> some View {
    HStack {
      ShareLink(item: file, preview: SharePreview("Picture"))
      Button("Save", systemImage: "square.and.arrow.down") { isSaving = true }
    }
    .buttonStyle(.borderless)
    .fileExporter(isPresented: $isSaving, document: file, contentType: .png, defaultFilename: "picture") { _ in }
  }
}

/// A picture on the screen.
struct PictureView: View {
  let picture: Picture

  var body: some View {
    if let image = picture.cgImage {
      Image(decorative: image, scale: 1)
        .resizable()
        .interpolation(.high)
        .aspectRatio(contentMode: .fit)
        .clipShape(.rect(cornerRadius: 12))
        .accessibilityHidden(false)
        .accessibilityAddTraits(.isImage)
    }
  }
}
