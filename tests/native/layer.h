// A linear layer to call the kernels of custom_ops/cpu/linear.cpp with, and a product of matrices for them.
#pragma once

#include <algorithm>

#include "kernels.h"

extern "C" {
Kernel MultilabelMarginLossLinearMean, MultilabelMarginLossLinearGradMean;
int64_t MultilabelMarginLossLinearSavedSize(int64_t rows, int64_t classes, int64_t features, int64_t num_labels);
void MultilabelMarginLossSetGemm(void *sgemm);
}

// The interface of oneDNN's: matrices by rows.
inline int Sgemm(char transa, char transb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                 const float *b, int64_t ldb, float beta, float *c, int64_t ldc, void *) {
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t column = 0; column < n; ++column) {
      float sum = 0;
      for (int64_t i = 0; i < k; ++i) {
        sum += (transa == 'N' ? a[row * lda + i] : a[i * lda + row]) *
               (transb == 'N' ? b[i * ldb + column] : b[column * ldb + i]);
      }
      float &result = c[row * ldc + column];
      result = alpha * sum + (beta == 0 ? 0 : beta * result);
    }
  }
  return 0;
}

// The interface of Batch. Of each class, few or all pairs are active.
struct Layer {
  static constexpr int64_t kFeatures = 5;
  Batch batch;  // whose input are the features
  int64_t classes;
  std::vector<float> weight, bias, loss, target_scores, active_classes, gradient;
  std::vector<int32_t> saved;

  Layer(int64_t rows, int64_t classes, int64_t labels, unsigned seed)
      : batch(rows, kFeatures, labels, seed),
        classes(classes),
        weight(classes * kFeatures),
        bias(classes),
        loss(1, 7),
        target_scores(rows * labels, 7),
        active_classes(rows * labels, 7),
        gradient(batch.input.size() + weight.size() + bias.size(), 7),
        saved(MultilabelMarginLossLinearSavedSize(rows, classes, kFeatures, labels), 7) {
    std::mt19937 random(seed);
    for (float &value : weight) value = static_cast<float>(random() % 9) / 4 - 1;
    for (int64_t i = 0; i < classes; ++i) bias[i] = i / 1024 % 2 == 0 ? 0.5f : -9;
    for (int32_t &label : batch.target) label = static_cast<int32_t>(random() % static_cast<uint64_t>(classes));
    MultilabelMarginLossSetGemm(reinterpret_cast<void *>(Sgemm));
    Forward();
  }

  void Forward() { Call(MultilabelMarginLossLinearMean, {{loss}}, {}); }

  void Backward() {
    float *of_weight = gradient.data() + batch.input.size(), *of_bias = of_weight + weight.size();
    Call(MultilabelMarginLossLinearGradMean, {},
         {{&batch.dout, 1}, {gradient.data(), batch.input.size()}, {of_weight, weight.size()}, {of_bias, bias.size()}});
  }

 private:
  struct Floats {
    Floats(std::vector<float> &values) : Floats(values.data(), values.size()) {}
    Floats(float *first, size_t count) : data(first), size(static_cast<int64_t>(count)) {}
    float *data;
    int64_t size;
  };

  // Calls a kernel with what comes before the state and behind it.
  void Call(Kernel &kernel, const std::vector<Floats> &before, const std::vector<Floats> &behind) {
    std::vector<void *> params = {batch.input.data(), batch.target.data(), weight.data(), bias.data()};
    std::vector<std::vector<int64_t>> sizes = {
        {batch.rows, kFeatures}, {batch.rows, batch.labels}, {classes, kFeatures}, {classes}};
    std::vector<const char *> dtypes = {"float32", "int32", "float32", "float32"};
    const auto add = [&](void *data, int64_t size, const char *dtype) {
      params.push_back(data);
      sizes.push_back({size});
      dtypes.push_back(dtype);
    };
    for (const Floats &of : before) add(of.data, of.size, "float32");
    for (std::vector<float> *of : {&target_scores, &active_classes}) {
      add(of->data(), static_cast<int64_t>(of->size()), "float32");
    }
    add(saved.data(), static_cast<int64_t>(saved.size()), "int32");
    for (const Floats &of : behind) add(of.data, of.size, "float32");
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
