// Loops over independent work on OpenMP's threads.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <cstdint>
#include <exception>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace mlml {

// True in a process that was forked off this one: the threads of the OpenMP runtime did not come along, and GCC's would
// wait for them for ever.
inline bool is_forked = false;
[[maybe_unused]] inline const int kWatchForks = pthread_atfork(nullptr, nullptr, [] { is_forked = true; });

inline int MaxThreads() { return is_forked ? 1 : omp_get_max_threads(); }

// Calls body(worker, index) for each index in [0, count), worker being in [0, threads). If calls throw, the exception of
// the least index reaches the caller, whatever the number of threads.
template <class Body>
void Parallel(int threads, int64_t count, Body body) {
  if (threads == 1 || count < 2) {
    for (int64_t index = 0; index < count; ++index) body(0, index);
    return;
  }
  std::exception_ptr error;
  int64_t error_index = count;
#pragma omp parallel for schedule(dynamic) num_threads(static_cast<int>(std::min<int64_t>(threads, count)))
  for (int64_t index = 0; index < count; ++index) {
    try {
      body(omp_get_thread_num(), index);
    } catch (...) {
#pragma omp critical(mlml_parallel_error)
      if (index < error_index) {
        error_index = index;
        error = std::current_exception();
      }
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace mlml
