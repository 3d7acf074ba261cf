// Calls the kernels from several threads at once, for ThreadSanitizer. With -DPLANT_RACE there is a race to find.
#include <cstdio>
#include <thread>

#include "kernels.h"

int main() {
  constexpr int kCallers = 4, kRounds = 20;
  const int64_t shapes[kCallers][3] = {{1, 200000, 9}, {8, 40000, 3}, {5, 30000, 300}, {64, 1000, 40}};
  int mistakes[kCallers] = {};
  volatile int planted = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      Batch batch(shapes[caller][0], shapes[caller][1], shapes[caller][2], caller);
      batch.Forward();
      batch.Backward();
      const std::vector<float> loss = batch.loss, gradient = batch.gradient;
      for (int round = 0; round < kRounds; ++round) {
        MultilabelMarginLossSetThreads(1 + (round + caller) % 4);
        batch.Forward();
        batch.Backward();
        mistakes[caller] += batch.loss != loss || batch.gradient != gradient;
#ifdef PLANT_RACE
        planted = planted + 1;
#endif
      }
    });
  }
  for (std::thread &caller : callers) caller.join();
  int total = 0;
  for (int count : mistakes) total += count;
  std::printf("%d calls, %d wrong%s\n", kCallers * kRounds * 2, total, planted != 0 ? ", a race planted" : "");
  return total == 0 ? 0 : 1;
}
