// The product of two matrices (GEMM), by oneDNN, which MindSpore brings: this library is linked with none.
#pragma once

#include <cstdint>

namespace mlml {

// Whether a product was set (MultilabelMarginLossSetGemm).
bool HasGemm();

// A matrix whose rows lie one behind the other, or its transpose.
struct Matrix {
  const float *values;
  int64_t stride;  // from a row to the next
  bool transposed = false;
};

// c += a * b, or c = a * b, where c has `rows` rows and `columns` columns and a has `inner` columns. On the calling
// thread alone.
void Multiply(const Matrix &a, const Matrix &b, int64_t rows, int64_t columns, int64_t inner, bool add, float *c,
              int64_t c_stride);

}  // namespace mlml
