// A linear layer to call the kernels of custom_ops/cpu/linear.cpp with, and a product of matrices for them.
#pragma once

#include <algorithm>

#include "kernels.h"

extern "C" {
Kernel MultilabelMarginLossLinearWithBiasHeader, MultilabelMarginLossLinearWithBiasTargetScores,
    MultilabelMarginLossLinearWithBiasPartial, MultilabelMarginLossLinearWithBiasMean,
    MultilabelMarginLossLinearWithBiasGradMean;
void MultilabelMarginLossSetBlas(void *sgemm, void *set_threads);
}

// As Fortran calls it, by columns.
inline void Sgemm(const char *transa, const char *transb, const int *m, const int *n, const int *k, const float *alpha,
                  const float *a, const int *lda, const float *b, const int *ldb, const float *beta, float *c,
                  const int *ldc) {
  for (int64_t column = 0; column < *n; ++column) {
    for (int64_t row = 0; row < *m; ++row) {
      float sum = 0;
      for (int64_t i = 0; i < *k; ++i) {
        sum += (*transa == 'N' ? a[row + i * *lda] : a[i + row * *lda]) *
               (*transb == 'N' ? b[i + column * *ldb] : b[column + i * *ldb]);
      }
      float &result = c[row + column * *ldc];
      result = *alpha * sum + (*beta == 0 ? 0 : *beta * result);
    }
  }
}

// The interface of Batch.
struct Layer {
  static constexpr int64_t kFeatures = 5;
  Batch batch;  // whose input are the features
  std::vector<float> weight, bias, loss, gradient;
  std::vector<int64_t> place;
  std::vector<float> header, target_scores, partial;

  Layer(int64_t rows, int64_t classes, int64_t labels, unsigned seed)
      : batch(rows, kFeatures, labels, seed),
        weight(classes * kFeatures),
        bias(classes, 0.5f),
        loss(1, 7),
        gradient(batch.input.size() + weight.size() + bias.size(), 7),
        place{classes, 0, 1, 0},
        header(1 + 16),
        target_scores(rows * labels),
        partial(rows * (2 + labels)) {
    std::mt19937 random(seed);
    for (float &value : weight) value = static_cast<float>(random() % 9) / 4 - 1;
    for (int32_t &label : batch.target) label = static_cast<int32_t>(random() % static_cast<uint64_t>(classes));
    MultilabelMarginLossSetBlas(reinterpret_cast<void *>(Sgemm), nullptr);
    Forward();
  }

  void Forward() {
    Call(MultilabelMarginLossLinearWithBiasHeader, 0, {{header}});
    Call(MultilabelMarginLossLinearWithBiasTargetScores, 1, {{target_scores}});
    Call(MultilabelMarginLossLinearWithBiasPartial, 2, {{partial}});
    Call(MultilabelMarginLossLinearWithBiasMean, 3, {{loss}});
  }

  void Backward() {
    float *of_weight = gradient.data() + batch.input.size(), *of_bias = of_weight + weight.size();
    Call(MultilabelMarginLossLinearWithBiasGradMean, 3,
         {{&batch.dout, 1}, {gradient.data(), batch.input.size()}, {of_weight, weight.size()}, {of_bias, bias.size()}});
  }

 private:
  struct Floats {
    Floats(std::vector<float> &values) : Floats(values.data(), values.size()) {}
    Floats(float *first, size_t count) : data(first), size(static_cast<int64_t>(count)) {}
    float *data;
    int64_t size;
  };

  // Calls a kernel with the first `known` of header, target scores and partial, and what comes behind.
  void Call(Kernel &kernel, size_t known, const std::vector<Floats> &behind) {
    const int64_t rows = batch.rows, classes = place[0];
    std::vector<void *> params = {batch.input.data(), batch.target.data(), weight.data(), bias.data(), place.data()};
    std::vector<std::vector<int64_t>> sizes = {
        {rows, kFeatures}, {rows, batch.labels}, {classes, kFeatures}, {classes}, {4}};
    std::vector<const char *> dtypes = {"float32", "int32", "float32", "float32", "int64"};
    std::vector<Floats> floats = {header, target_scores, partial};
    floats.resize(known, header);
    floats.insert(floats.end(), behind.begin(), behind.end());
    for (const Floats &of : floats) {
      params.push_back(of.data);
      sizes.push_back({of.size});
      dtypes.push_back("float32");
    }
    std::vector<int> ndims;
    std::vector<int64_t *> shapes;
    for (std::vector<int64_t> &of : sizes) {
      ndims.push_back(static_cast<int>(of.size()));
      shapes.push_back(of.data());
    }
    kernel(static_cast<int>(params.size()), params.data(), ndims.data(), shapes.data(), dtypes.data(), nullptr,
           nullptr);
  }
};
