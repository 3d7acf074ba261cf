// Calls the kernels from several threads at once, for ThreadSanitizer. With -DPLANT_RACE there is a race to find.
#include <cstdio>
#include <thread>

#include "layer.h"

int main() {
  constexpr int kCallers = 4, kRounds = 20;
  const int64_t shapes[kCallers][3] = {{1, 200000, 9}, {8, 40000, 3}, {5, 30000, 300}, {64, 1000, 40}};
  const int64_t layers[kCallers][3] = {{1, 5000, 2}, {300, 3000, 3}, {5, 20000, 40}, {70, 700, 5}};
  int mistakes[kCallers] = {};
  volatile int planted = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      Batch batch(shapes[caller][0], shapes[caller][1], shapes[caller][2], caller);
      Layer layer(layers[caller][0], layers[caller][1], layers[caller][2], caller);
      batch.Forward();
      batch.Backward();
      layer.Backward();
      const std::vector<float> loss = batch.loss, gradient = batch.gradient;
      const std::vector<float> loss_of_layer = layer.loss, gradient_of_layer = layer.gradient;
      for (int round = 0; round < kRounds; ++round) {
        MultilabelMarginLossSetThreads(1 + (round + caller) % 4);
        batch.Forward();
        batch.Backward();
        mistakes[caller] += batch.loss != loss || batch.gradient != gradient;
        layer.Forward();
        layer.Backward();
        mistakes[caller] += layer.loss != loss_of_layer || layer.gradient != gradient_of_layer;
#ifdef PLANT_RACE
        planted = planted + 1;
#endif
      }
    });
  }
  for (std::thread &caller : callers) caller.join();
  int total = 0;
  for (int count : mistakes) total += count;
  std::printf("%d calls, %d wrong%s\n", kCallers * kRounds * 4, total, planted != 0 ? ", a race planted" : "");
  return total == 0 ? 0 : 1;
}
