#include "gemm.h"

#include <atomic>
#include <stdexcept>
#include <string>

#include "../aot.h"

namespace mlml {
namespace {

// oneDNN's dnnl_threadpool_interop_sgemm: matrices by rows, and 0 if it succeeds. Without a thread pool it computes on
// the calling thread.
using Sgemm = int(char transa, char transb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                  const float *b, int64_t ldb, float beta, float *c, int64_t ldc, void *threadpool);

std::atomic<Sgemm *> sgemm{nullptr};

}  // namespace

bool HasGemm() { return sgemm != nullptr; }

void Multiply(const Matrix &a, const Matrix &b, int64_t rows, int64_t columns, int64_t inner, bool add, float *c,
              int64_t c_stride) {
  const auto name = [](const Matrix &matrix) { return matrix.transposed ? 'T' : 'N'; };
  const int status = sgemm.load()(name(a), name(b), rows, columns, inner, 1, a.values, a.stride, b.values, b.stride,
                                  add ? 1.0f : 0.0f, c, c_stride, nullptr);
  if (status != 0) throw std::runtime_error("oneDNN's sgemm failed with status " + std::to_string(status) + ".");
}

}  // namespace mlml

// The address of oneDNN's dnnl_threadpool_interop_sgemm, which must be set before a linear layer runs.
MLML_EXPORT void MultilabelMarginLossSetGemm(void *sgemm) { mlml::sgemm = reinterpret_cast<mlml::Sgemm *>(sgemm); }
