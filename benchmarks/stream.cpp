// The streaming limit: how fast this machine's threads read floats, and how fast they read some and write others.
#include <cstdint>
#include <thread>
#include <vector>

constexpr int kChains = 8;  // independent sums of 16 floats, so that the additions do not wait for each other
constexpr int64_t kStep = 16 * kChains;

typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));

template <class Body>
static void Share(int threads, int64_t count, Body body) {
  const int64_t steps = count / kStep;
  std::vector<std::thread> helpers;
  for (int t = 1; t < threads; ++t) {
    helpers.emplace_back(body, t, steps * t / threads * kStep, steps * (t + 1) / threads * kStep);
  }
  body(0, 0, steps / threads * kStep);
  for (std::thread &helper : helpers) helper.join();
}

extern "C" float StreamRead(int threads, const float *from, int64_t count) {
  std::vector<float> totals(threads);
  Share(threads, count, [&](int thread, int64_t begin, int64_t end) {
    Floats sums[kChains] = {};
    for (int64_t i = begin; i < end; i += kStep) {
      for (int chain = 0; chain < kChains; ++chain) {
        sums[chain] += *reinterpret_cast<const Floats *>(from + i + 16 * chain);
      }
    }
    for (const Floats &sum : sums) totals[thread] += sum[0];
  });
  return totals[0];
}

extern "C" void StreamCopy(int threads, const float *from, float *to, int64_t count) {
  Share(threads, count, [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += 16) {
      *reinterpret_cast<Floats *>(to + i) = *reinterpret_cast<const Floats *>(from + i) + 1.0f;
    }
  });
}
