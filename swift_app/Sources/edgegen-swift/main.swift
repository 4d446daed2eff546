import EdgegenCore
import Foundation

let help = """
  edgegen-swift generate PROMPT --bundle DIR [--backend NAME] [--unit UNIT] [--seed N] [--steps N] [--guidance G]
                         [--out FILE.png] [--json]
  edgegen-swift bench --bundle DIR [--backend NAME] [--unit UNIT] [--component NAME] [--runs N] [--seconds S]
                      [--threads N] [--record FILE.jsonl] [--json]

  UNIT, of Core ML: all, cpu_and_ne, cpu_and_gpu, cpu. ONNX Runtime is the library that EDGEGEN_ONNXRUNTIME names.
  """

/// Runs a command; every expected failure is one line on standard error. Returns the exit code.
func run(_ words: [String]) -> Int32 {
  do {
    switch words.first {
    case "generate": try GenerateCommand(Array(words.dropFirst())).run()
    case "bench": try BenchCommand(Array(words.dropFirst())).run()
    case "--version": print("edgegen-swift \(AppVersion.current)")
    case "--help", "help": print(help)
    case nil: throw EdgegenError(.badInput, "a command is missing: generate or bench.", "Try --help.")
    case let word?: throw EdgegenError(.badInput, "there is no command \(word).", "Try --help.")
    }
    return 0
  } catch let error as EdgegenError {
    Console.tell("error: \(error)")
    return error.exitCode
  } catch {
    Console.tell("error: \(error.localizedDescription)")
    return 1
  }
}

let words = Array(CommandLine.arguments.dropFirst())
exit(words.contains("--help") ? run(["--help"]) : run(words))
