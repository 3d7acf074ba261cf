// Loops over independent work on the threads of the process.
//
// MindSpore's PyNative mode spins in the thread that waits for a result. OpenMP's teams start and end together, so on a
// machine with few cores they would wait, milliseconds long, for a member whose core the spinning thread has. Here the
// caller works on its own from the first moment, helpers join when they get a core, and nobody waits for one that has
// not.
#pragma once

#include <cstdint>
#include <exception>
#include <mutex>

namespace mlml {

// What SetMaxThreads said, or OMP_NUM_THREADS, or the number of processors that this process may use.
int MaxThreads();
void SetMaxThreads(int threads);

// A function of a worker and an index that its owner keeps. (Not std::function, for which the C++ library of an older
// macOS lacks a symbol.)
class BodyReference {
 public:
  template <class Body>
  explicit BodyReference(const Body &body)
      : body_(&body), call_([](const void *object, int worker, int64_t index) {
          (*static_cast<const Body *>(object))(worker, index);
        }) {}
  void operator()(int worker, int64_t index) const { call_(body_, worker, index); }

 private:
  const void *body_;
  void (*call_)(const void *, int, int64_t);
};

// Calls body(worker, index) for each index in [0, count) on up to `threads` threads; worker is in [0, threads). The
// body must not throw.
void RunParallel(int threads, int64_t count, const BodyReference &body);

// The same for a body that may throw: the exception of the least index reaches the caller, whatever the number of
// threads.
template <class Body>
void Parallel(int threads, int64_t count, Body body) {
  if (threads == 1 || count < 2) {
    for (int64_t index = 0; index < count; ++index) body(0, index);
    return;
  }
  std::mutex mutex;
  std::exception_ptr error;
  int64_t error_index = count;
  const auto guarded = [&](int worker, int64_t index) {
    try {
      body(worker, index);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (index < error_index) {
        error_index = index;
        error = std::current_exception();
      }
    }
  };
  RunParallel(threads, count, BodyReference(guarded));
  if (error) std::rethrow_exception(error);
}

}  // namespace mlml
