// Calls the kernels while allocations or new threads fail. Each failure must reach the caller as an exception, or not
// at all, and the next call must be right.
#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "layer.h"

namespace {

std::atomic<long> allocations_left{-1};  // until one fails; negative: none fails
std::atomic<bool> threads_fail{false};
std::atomic<int> threads_refused{0};

}  // namespace

void *operator new(size_t size) {
  if (allocations_left >= 0 && allocations_left.fetch_sub(1) == 0) throw std::bad_alloc();
  if (void *memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
void *operator new(size_t size, std::align_val_t alignment) {
  if (allocations_left >= 0 && allocations_left.fetch_sub(1) == 0) throw std::bad_alloc();
  const auto align = static_cast<size_t>(alignment);
  if (void *memory = std::aligned_alloc(align, (size + align - 1) / align * align)) return memory;
  throw std::bad_alloc();
}
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, size_t) noexcept { std::free(memory); }
void operator delete(void *memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void *memory, size_t, std::align_val_t) noexcept { std::free(memory); }

extern "C" int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                              void *argument) {
  if (threads_fail) {
    ++threads_refused;
    return EAGAIN;
  }
  using Create = int(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  static auto *const create = reinterpret_cast<Create *>(dlsym(RTLD_NEXT, "pthread_create"));
  return create(thread, attributes, start, argument);
}

long calls = 0, failures = 0, mistakes = 0;

// Lets the first, the second, ... allocation of a call fail, until the call needs no more; of a call with hundreds,
// every tenth or so. (That of a helper may fail unseen: the others do its work.)
template <class Batch>
void FailAllocations(const int64_t (&shape)[3], int threads, bool forward) {
  MultilabelMarginLossSetThreads(1);
  Batch expected(shape[0], shape[1], shape[2], 1);
  expected.Forward();
  expected.Backward();
  MultilabelMarginLossSetThreads(threads);
  Batch batch(shape[0], shape[1], shape[2], 1);
  for (long nth = 0;; nth += 1 + nth / 64) {
    ++calls;
    try {
      allocations_left = nth;
      forward ? batch.Forward() : batch.Backward();
      const bool none_failed = allocations_left.exchange(-1) >= 0;
      mistakes += forward ? batch.loss != expected.loss : batch.gradient != expected.gradient;
      if (none_failed) return;
    } catch (const std::bad_alloc &) {
      allocations_left = -1;
      ++failures;
    }
  }
}

int main() {
  const int64_t shapes[][3] = {{2, 100000, 40}, {3, 7, 2}, {3, 2000, 5}, {2, 100000, 700}, {300, 1000, 9}};
  // Packed numbers; with little room, lists and scores that are computed again; with so many labels, nothing saved.
  const int64_t shapes_of_layers[][3] = {{3, 7, 2}, {3, 5000, 40}, {300, 3000, 3}, {1, 9, 70000}};
  // The helpers start while allocations fail; later there are to be more of them, but none can start.
  for (int threads : {4, 1, 8}) {
    threads_fail = threads == 8;
    for (const auto &shape : shapes) {
      FailAllocations<Batch>(shape, threads, true);
      FailAllocations<Batch>(shape, threads, false);
    }
    for (const auto &shape : shapes_of_layers) {
      FailAllocations<Layer>(shape, threads, true);
      FailAllocations<Layer>(shape, threads, false);
    }
  }
  std::printf("%ld calls, %ld failed allocations reported, %d threads refused, %ld wrong\n", calls, failures,
              threads_refused.load(), mistakes);
  return mistakes == 0 && failures > 0 && threads_refused > 0 ? 0 : 1;
}
