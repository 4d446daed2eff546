#if canImport(CoreAI)
  import Foundation

  /// Waits for asynchronous work where networks are run in turn. The caller's thread is blocked until it is done.
  enum Waiting {
    static func result<Value>(_ work: @escaping @Sendable () async throws -> Value) throws -> Value {
      let done = DispatchSemaphore(value: 0), box = Box<Value>()
      Task.detached(priority: .userInitiated) {
        do { box.result = .success(try await work()) } catch { box.result = .failure(error) }
        done.signal()
      }
      done.wait()
      return try box.result!.get()
    }

    private final class Box<Value>: @unchecked Sendable {  // written before the signal, read after the wait
      var result: Result<Value, any Error>?
    }
  }
#endif
