// The streaming limit: how fast this machine's threads read floats, and how fast they read some and write others.
#include <omp.h>

#include <cstdint>

constexpr int kChains = 8;  // independent sums of 16 floats, so that the additions do not wait for each other

typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));

template <class Body>
static void Share(int64_t count, Body body) {
#pragma omp parallel
  {
    const int64_t step = 16 * kChains;
    const int64_t blocks = count / step, thread = omp_get_thread_num(), threads = omp_get_num_threads();
    body(blocks * thread / threads * step, blocks * (thread + 1) / threads * step);
  }
}

extern "C" float StreamRead(const float *from, int64_t count) {
  float total = 0;
  Share(count, [&](int64_t begin, int64_t end) {
    Floats sums[kChains] = {};
    for (int64_t i = begin; i < end; i += 16 * kChains) {
      for (int chain = 0; chain < kChains; ++chain) {
        sums[chain] += *reinterpret_cast<const Floats *>(from + i + 16 * chain);
      }
    }
    float sum = 0;
    for (const Floats &chain : sums) sum += chain[0];
#pragma omp atomic
    total += sum;
  });
  return total;
}

extern "C" void StreamCopy(const float *from, float *to, int64_t count) {
  Share(count, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += 16) {
      *reinterpret_cast<Floats *>(to + i) = *reinterpret_cast<const Floats *>(from + i) + 1.0f;
    }
  });
}
