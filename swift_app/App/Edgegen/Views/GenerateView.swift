import EdgegenCore
import SwiftUI

/// Prompt, button, picture.
struct GenerateView: View {
  @Environment(AppModel.self) private var model

  var body: some View {
    @Bindable var generator = model.generator
    NavigationStack {
      Form {
        Section {
          TextField("What to draw", text: $generator.prompt, axis: .vertical)
            .lineLimit(1...4)
            .onSubmit { model.generate() }
          SuggestionsView()
          buttons
        }
        ProgressSection(phase: generator.phase)
        ErrorSection(error: generator.error)
        PictureSection()
        Section("Options") {
          SeedField(seed: $generator.seed)
          Toggle("Keep this seed", isOn: $generator.keepsSeed)
          Toggle("Show each step", isOn: $generator.wantsPreviews)
        }
      }
      .formStyle(.grouped)
      .navigationTitle("Draw")
    }
  }

  private var buttons: some View {
    HStack {
      Button("Generate", systemImage: "sparkles") { model.generate() }
        .buttonStyle(.borderedProminent)
        .disabled(!model.generator.canGenerate || model.library.choice == nil)
      if model.generator.isRunning {
        Button("Stop", systemImage: "stop.fill", role: .cancel) { model.generator.stop() }
          .buttonStyle(.bordered)
      }
    }
  }
}

/// The bundle's own prompts, to try.
struct SuggestionsView: View {
  @Environment(AppModel.self) private var model

  var body: some View {
    if model.generator.prompt.isEmpty, let prompts = model.library.choice?.bundle.manifest.prompts {
      ScrollView(.horizontal) {
        HStack {
          ForEach(prompts, id: \.self) { prompt in
            Button(prompt) { model.generator.prompt = prompt }.buttonStyle(.bordered)
          }
        }
      }
      .scrollIndicators(.hidden)
    }
  }
}

/// The seed as a number that can be typed.
struct SeedField: View {
  @Binding var seed: UInt64

  var body: some View {
    LabeledContent("Seed") {
      TextField("Seed", value: $seed, format: .number.grouping(.never))
        .multilineTextAlignment(.trailing)
        .monospacedDigit()
        #if os(iOS)
          .keyboardType(.numberPad)
        #endif
    }
  }
}
