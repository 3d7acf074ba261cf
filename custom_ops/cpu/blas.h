// The product of two matrices, from a BLAS that Python found: this library is linked with none.
#pragma once

#include <cstdint>

namespace mlml {

// Whether there is one.
bool HasBlas();

// A matrix whose rows lie one behind the other, or its transpose.
struct Matrix {
  const float *values;
  int64_t stride;  // from a row to the next
  bool transposed = false;
};

// c += a * b, or c = a * b, where c has `rows` rows and `columns` columns and a has `inner` columns.
void Multiply(const Matrix &a, const Matrix &b, int64_t rows, int64_t columns, int64_t inner, bool add, float *c,
              int64_t c_stride);

// Lets the BLAS use the calling thread alone, as long as this lives: the threads that call it are the pool's.
class OneBlasThread {
 public:
  OneBlasThread();
  ~OneBlasThread();
  OneBlasThread(const OneBlasThread &) = delete;
  OneBlasThread &operator=(const OneBlasThread &) = delete;

 private:
  int before_ = 0;
};

}  // namespace mlml
