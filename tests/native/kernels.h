// What the native tests share: the kernels' symbols, and a random batch to call them with.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

using Kernel = int(int, void **, int *, int64_t **, const char **, void *, void *);
extern "C" {
Kernel MultilabelMarginLossFromLabelsNone, MultilabelMarginLossFromLabelsMean, MultilabelMarginLossFromLabelsSum;
Kernel MultilabelMarginLossFromLabelsGradNone, MultilabelMarginLossFromLabelsGradMean,
    MultilabelMarginLossFromLabelsGradSum;
void MultilabelMarginLossSetThreads(int threads);
}

struct Batch {
  int64_t rows, classes, labels;
  std::vector<float> input;
  std::vector<int32_t> target;
  std::vector<float> loss, gradient;
  float dout = 1;

  Batch(int64_t rows, int64_t classes, int64_t labels, unsigned seed)
      : rows(rows),
        classes(classes),
        labels(labels),
        input(rows * classes),
        target(rows * labels),
        loss(1, 7),
        gradient(rows * classes, 7) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (float &score : input) score = normal(random);
    for (int32_t &label : target) label = static_cast<int32_t>(random() % static_cast<uint64_t>(classes));
  }

  void Forward() {
    void *params[] = {input.data(), target.data(), loss.data()};
    int64_t input_shape[] = {rows, classes}, target_shape[] = {rows, labels}, loss_shape[] = {1};
    int64_t *shapes[] = {input_shape, target_shape, loss_shape};
    int ndims[] = {2, 2, 0};
    const char *dtypes[] = {"float32", "int32", "float32"};
    MultilabelMarginLossFromLabelsMean(3, params, ndims, shapes, dtypes, nullptr, nullptr);
  }

  void Backward() {
    void *params[] = {input.data(), target.data(), &dout, gradient.data()};
    int64_t input_shape[] = {rows, classes}, target_shape[] = {rows, labels}, dout_shape[] = {1};
    int64_t *shapes[] = {input_shape, target_shape, dout_shape, input_shape};
    int ndims[] = {2, 2, 0, 2};
    const char *dtypes[] = {"float32", "int32", "float32", "float32"};
    MultilabelMarginLossFromLabelsGradMean(4, params, ndims, shapes, dtypes, nullptr, nullptr);
  }
};
