// The processors that this process may use, as reported by the operating system.
#pragma once

#include <cstddef>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace mlml {

#if defined(__linux__)

class Processors {
 public:
  Processors() : is_known_(sched_getaffinity(0, sizeof(allowed_), &allowed_) == 0) {}

  int Count() const { return is_known_ ? CPU_COUNT(&allowed_) : 1; }

  // Linux wakes a thread on the processor of the one that wakes it, where the two would take turns.
  void KeepOffThisOne(const std::vector<std::thread::native_handle_type> &threads) {
    const int processor = sched_getcpu();
    if (!is_known_ || (processor == kept_off_ && threads.size() == threads_kept_off_)) return;
    cpu_set_t others = allowed_;
    if (processor >= 0) CPU_CLR(processor, &others);
    if (CPU_COUNT(&others) == 0) return;
    for (const pthread_t thread : threads) pthread_setaffinity_np(thread, sizeof(others), &others);
    kept_off_ = processor;
    threads_kept_off_ = threads.size();
  }

 private:
  cpu_set_t allowed_ = {};
  bool is_known_;
  int kept_off_ = -1;
  size_t threads_kept_off_ = 0;
};

#else  // where a thread's processors can only be hinted at, or need not be

class Processors {
 public:
  int Count() const { return static_cast<int>(std::thread::hardware_concurrency()); }
  void KeepOffThisOne(const std::vector<std::thread::native_handle_type> &) {}
};

#endif

}  // namespace mlml
