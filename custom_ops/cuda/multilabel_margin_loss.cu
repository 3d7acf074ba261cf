// The multi-label margin loss and its gradient on a GPU: which kernels run, and the entry points. definition.h has the
// formula.
//
// Each block of threads works on a piece of a row: it sorts the thresholds of the row's targets into a search tree in
// shared memory, then reads the piece's scores, once for each tree that the targets fill. Partial results are integers,
// or sums that are added in a fixed order: the same input gives the same bits every time, on every GPU.
#include <algorithm>

#include "../operator.h"

// In reading order.
// clang-format off
#include "row.cuh"
#include "tree.cuh"
#include "loss.cuh"
#include "gradient.cuh"
#include "check.cuh"
#include "launch.cuh"
// clang-format on

namespace mlml {
namespace {

// The memory that MindSpore lends the kernels, in bytes. Its size is fixed because MindSpore asks for it only once,
// also where shapes are dynamic.
constexpr size_t kLossWorkspace = kMaxBlocks * sizeof(PartialSum);
constexpr size_t kGradientWorkspace = kMaxSharedRows * kCounters * sizeof(uint32_t);

template <class T, int kBlock>
void RunLoss(const Batch &batch, Reduction reduction, T *loss, PartialSum *partials, cudaStream_t stream) {
  const Problem<T> problem = Divide<T>(batch);
  const bool reduce = reduction != Reduction::kNone;
  const int64_t blocks = std::min(problem.rows * problem.pieces, kMaxBlocks);
  const bool write_rows = !reduce && problem.pieces == 1;
  Launch(LossKernel<T, kBlock>, blocks, kBlock, stream, problem, write_rows ? loss : nullptr, partials);
  if (write_rows) return;
  const bool by_row = problem.pieces > 1;
  Launch(FinishLossKernel<T, kThreads>, 1, kThreads, stream, partials, by_row ? batch.labels.rows : blocks,
         problem.pieces, by_row ? static_cast<double>(batch.scores.classes) : 1.0,
         Divisor(reduction, batch.labels.rows), reduce, loss);
}

template <class T, int kBlock>
void RunGradient(const Batch &batch, Scale<T> scale, T *gradient, uint32_t *counters, cudaStream_t stream) {
  const Problem<T> problem = Divide<T>(batch);
  const bool shared = kMayCut<kBlock> && problem.pieces > 1;
  if (shared) Check(cudaMemsetAsync(counters, 0, batch.labels.rows * kCounters * sizeof(*counters), stream));
  Launch(GradientKernel<T, kBlock>, std::min(problem.rows * problem.pieces, kMaxGrid), kBlock, stream, problem, scale,
         counters, gradient);
  if constexpr (kMayCut<kBlock>) {
    if (shared)
      Launch(FinishGradientKernel<T, kBlock>, batch.labels.rows, kBlock, stream, problem, scale, counters, gradient);
  }
}

template <class T>
void Loss(const Batch &batch, Reduction reduction, T *loss, void *workspace, cudaStream_t stream) {
  if (batch.labels.rows == 0) {
    if (reduction != Reduction::kNone) Check(cudaMemsetAsync(loss, 0, sizeof(T), stream));
    return;
  }
  CheckTargets(batch, workspace, stream);
  auto *partials = static_cast<PartialSum *>(workspace);
  batch.scores.classes <= kShortRow ? RunLoss<T, kFewThreads>(batch, reduction, loss, partials, stream)
                                    : RunLoss<T, kThreads>(batch, reduction, loss, partials, stream);
}

template <class T>
void Gradient(const Batch &batch, Reduction reduction, const T *dout, T *gradient, void *workspace,
              cudaStream_t stream) {
  if (batch.labels.rows == 0) return;
  CheckTargets(batch, workspace, stream);
  const Scale<T> scale = {dout, reduction == Reduction::kNone,
                          GradientDivisor(reduction, batch.labels.rows, batch.scores.classes)};
  auto *counters = static_cast<uint32_t *>(workspace);
  batch.scores.classes <= kShortRow ? RunGradient<T, kFewThreads>(batch, scale, gradient, counters, stream)
                                    : RunGradient<T, kThreads>(batch, scale, gradient, counters, stream);
}

}  // namespace

int Forward(const Arguments &arguments, const Names &names, Reduction reduction, void *stream) {
  arguments.Expect(4);
  const Batch batch = ReadBatch(arguments, names);
  void *loss = arguments.Read(2, "loss", reduction == Reduction::kNone ? batch.labels.rows : 1);
  void *workspace = arguments.Workspace(3);
  const auto on = static_cast<cudaStream_t>(stream);
  batch.scores.dtype == Dtype::kFloat16 ? Loss(batch, reduction, static_cast<__half *>(loss), workspace, on)
                                        : Loss(batch, reduction, static_cast<float *>(loss), workspace, on);
  return 0;
}

int Backward(const Arguments &arguments, const Names &names, Reduction reduction, void *stream) {
  arguments.Expect(5);
  const Batch batch = ReadBatch(arguments, names);
  const void *dout = arguments.Read(2, "dout", reduction == Reduction::kNone ? batch.labels.rows : 1);
  void *gradient = arguments.Read(3, "gradient", batch.labels.rows * batch.scores.classes);
  void *workspace = arguments.Workspace(4);
  const auto on = static_cast<cudaStream_t>(stream);
  batch.scores.dtype == Dtype::kFloat16
      ? Gradient(batch, reduction, static_cast<const __half *>(dout), static_cast<__half *>(gradient), workspace, on)
      : Gradient(batch, reduction, static_cast<const float *>(dout), static_cast<float *>(gradient), workspace, on);
  return 0;
}

// Where a label is no class, the gradient is NaN anyway; what MLML_CHECK_TARGETS finds, it reports again.
int BackwardAfterReport(const Arguments &arguments, const Names &names, Reduction reduction, void *stream) {
  return Backward(arguments, names, reduction, stream);
}

}  // namespace mlml

MLML_OPERATOR

// The bytes of the workspace: MindSpore asks for them by way of <Kernel>Init.
MLML_EXPORT int64_t MultilabelMarginLossWorkspace() { return mlml::kLossWorkspace; }
MLML_EXPORT int64_t MultilabelMarginLossGradWorkspace() { return mlml::kGradientWorkspace; }

#define MLML_INIT(NAME, BYTES)                                                    \
  MLML_EXPORT int NAME##Init(int *, int64_t **, const char **, AotExtra *extra) { \
    extra->workspace.assign(1, BYTES);                                            \
    return 0;                                                                     \
  }

#define MLML_INITS(NAME)                              \
  MLML_INIT(NAME##None, mlml::kLossWorkspace)         \
  MLML_INIT(NAME##Mean, mlml::kLossWorkspace)         \
  MLML_INIT(NAME##Sum, mlml::kLossWorkspace)          \
  MLML_INIT(NAME##GradNone, mlml::kGradientWorkspace) \
  MLML_INIT(NAME##GradMean, mlml::kGradientWorkspace) \
  MLML_INIT(NAME##GradSum, mlml::kGradientWorkspace)

MLML_INITS(MultilabelMarginLoss)
MLML_INITS(MultilabelMarginLossFromLabels)
