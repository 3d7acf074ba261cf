#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <thread>
#include <vector>

#include "floating_point.h"
#include "processors.h"

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace mlml {
namespace {

// How often the caller looks whether the helpers are done before it sleeps: about the time that waking up takes.
constexpr int kSpins = 2000;

class Pool {
 public:
  void Run(int threads, int64_t count, const BodyReference &body) {
    const std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn) {  // the helpers work for another thread
      for (int64_t index = 0; index < count; ++index) body(0, index);
      return;
    }
    StartHelpers(threads - 1);
    processors_.KeepOffThisOne(helpers_);
    next_ = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      body_ = &body;
      count_ = count;
      limit_ = threads - 1;
      joined_ = 0;
    }
    wake_.notify_all();
    Work(0, count, body);
    std::unique_lock<std::mutex> lock(mutex_);
    body_ = nullptr;  // nobody joins any more
    for (int i = 0; i < kSpins && working_ != 0; ++i) {
      lock.unlock();
      std::this_thread::yield();
      lock.lock();
    }
    done_.wait(lock, [&] { return working_ == 0; });
  }

 private:
  void StartHelpers(int count) {
    helpers_.reserve(std::max(count, 0));  // so that nothing fails between a helper's start and its being listed
    while (static_cast<int>(helpers_.size()) < count) {
      try {
        std::thread helper([this] { Help(); });
        helpers_.push_back(helper.native_handle());
        helper.detach();  // it lives as long as the process
      } catch (const std::exception &) {
        return;  // the process may have no more threads, or memory for them; those that there are do the work
      }
    }
  }

  void Help() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return body_ != nullptr && joined_ < limit_; });
      const int worker = ++joined_;
      ++working_;
      const BodyReference &body = *body_;
      const int64_t count = count_;
      lock.unlock();
      InStandardFloatingPoint([&] { Work(worker, count, body); });
      lock.lock();
      if (--working_ == 0) done_.notify_one();
    }
  }

  void Work(int worker, int64_t count, const BodyReference &body) {
    for (int64_t index; (index = next_.fetch_add(1)) < count;) body(worker, index);
  }

  Processors processors_;
  std::vector<std::thread::native_handle_type> helpers_;
  std::mutex turn_;  // held by the thread that the helpers work for

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_, done_;
  const BodyReference *body_ = nullptr;
  int64_t count_ = 0;
  int limit_ = 0;    // how many helpers may join
  int joined_ = 0;   // how many did
  int working_ = 0;  // how many are not done yet

  std::atomic<int64_t> next_{0};  // the next index to work on
};

// Never destroyed: helpers may wait in it until the process ends. After a fork the child makes its own, since the
// parent's helpers did not come along.
std::atomic<Pool *> pool{nullptr};

Pool &GetPool() {
#if !defined(_WIN32)
  static const int watch = pthread_atfork(nullptr, nullptr, [] { pool = nullptr; });
  (void)watch;
#endif
  Pool *current = pool;
  if (current == nullptr) {
    auto *created = new Pool;
    if (pool.compare_exchange_strong(current, created)) return *created;
    delete created;
  }
  return *current;
}

constexpr int kMostThreads = 1024;

// The first number of OMP_NUM_THREADS, which may be a list; 0 if it is not one.
long WantedThreads() {
  const char *wanted = std::getenv("OMP_NUM_THREADS");
  if (wanted == nullptr) return 0;
  char *end;
  const long number = std::strtol(wanted, &end, 10);
  while (*end == ' ' || *end == '\t') ++end;
  return *end == '\0' || *end == ',' ? number : 0;
}

int DefaultThreads() {
  const long wanted = WantedThreads();
  if (wanted > 0) return static_cast<int>(std::min<long>(wanted, kMostThreads));
  return std::clamp(Processors().Count(), 1, kMostThreads);
}

std::atomic<int> max_threads{0};  // 0: not known yet

}  // namespace

int MaxThreads() {
  if (max_threads == 0) max_threads = DefaultThreads();
  return max_threads;
}

void SetMaxThreads(int threads) { max_threads = std::clamp(threads, 0, kMostThreads); }

void RunParallel(int threads, int64_t count, const BodyReference &body) {
  GetPool().Run(static_cast<int>(std::min<int64_t>(threads, count)), count, body);
}

}  // namespace mlml
