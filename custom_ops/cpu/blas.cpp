#include "blas.h"

#include <atomic>

#include "../aot.h"

namespace mlml {
namespace {

// As Fortran calls it, by columns.
using Sgemm = void(const char *transa, const char *transb, const int *m, const int *n, const int *k, const float *alpha,
                   const float *a, const int *lda, const float *b, const int *ldb, const float *beta, float *c,
                   const int *ldc);
using SetThreads = int(int threads);  // returns how many there were

std::atomic<Sgemm *> sgemm{nullptr};
std::atomic<SetThreads *> set_threads{nullptr};

}  // namespace

bool HasBlas() { return sgemm != nullptr; }

// By columns, the matrices are transposed: c' = b' * a'.
void Multiply(const Matrix &a, const Matrix &b, int64_t rows, int64_t columns, int64_t inner, bool add, float *c,
              int64_t c_stride) {
  const char transa = a.transposed ? 'T' : 'N', transb = b.transposed ? 'T' : 'N';
  const auto m = static_cast<int>(columns), n = static_cast<int>(rows), k = static_cast<int>(inner);
  const auto lda = static_cast<int>(a.stride), ldb = static_cast<int>(b.stride), ldc = static_cast<int>(c_stride);
  const float one = 1, beta = add ? 1 : 0;
  sgemm.load()(&transb, &transa, &m, &n, &k, &one, b.values, &ldb, a.values, &lda, &beta, c, &ldc);
}

OneBlasThread::OneBlasThread() {
  if (SetThreads *set = set_threads) before_ = set(1);
}

OneBlasThread::~OneBlasThread() {
  if (SetThreads *set = set_threads) set(before_);
}

}  // namespace mlml

// The functions to use: sgemm with integers of 32 bits, and, or null, what sets the number of threads that it uses when
// the calling thread calls it.
MLML_EXPORT void MultilabelMarginLossSetBlas(void *sgemm, void *set_threads) {
  mlml::sgemm = reinterpret_cast<mlml::Sgemm *>(sgemm);
  mlml::set_threads = reinterpret_cast<mlml::SetThreads *>(set_threads);
}
