import EdgegenCore
import Foundation
import Observation

/// The models of the screens, put together.
@MainActor @Observable
final class AppModel {
  let settings: SettingsModel
  let library: LibraryModel
  let history: HistoryModel
  let generator: GeneratorModel
  let bench: BenchModel

  private let drawer: PictureDrawer

  init() {
    let loaders = AppleLoaders(), battery = Battery(), device = DeviceFacts.current()
    let settings = SettingsModel(file: AppFolders.support.appendingPathComponent("settings.json"))
    let history = HistoryModel(HistoryStore(folder: AppFolders.history), settings: settings)
    let drawer = PictureDrawer(loaders)
    let library = LibraryModel(
      BundleLibrary(imported: AppFolders.bundles, carried: AppFolders.carried), settings: settings,
      backends: loaders.backends, availableBytes: MemoryMeter.availableBytes(), deviceModel: device.model)
    generator = GeneratorModel(drawer, onDrawn: { history.add($0, of: $1) })
    let measurer = BundleMeasurer(
      loaders, settings: .standard, versions: ["app": AppVersion.current], conditions: { battery.conditions() })
    bench = BenchModel(measurer, settings: settings, record: RecordFile(AppFolders.record))
    (self.settings, self.library, self.history, self.drawer) = (settings, library, history, drawer)
    AppleLoaders.prune(keeping: library.bundles)
  }

  /// Draws the prompt with the bundle that is chosen.
  func generate() {
    guard let bundle = library.choice?.bundle else { return }
    generator.generate(with: bundle, unit: settings.values.unit)
  }

  /// Measures the bundle that is chosen.
  func measure() {
    guard let bundle = library.choice?.bundle else { return }
    bench.start(bundle, unit: settings.values.unit)
  }

  /// Lets go of the networks, when the system is short of memory.
  func freeMemory() { Task { [drawer] in await drawer.unload() } }
}
