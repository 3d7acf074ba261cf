// The loss of scores whose classes are divided over ranks: each has a slice of them (ranks.h). The steps are those of
// cpu/class_parallel.cpp.
//
// The exchanged data are in the GPU's memory, and the host does not wait for them: where the ranks do not agree, losses
// and gradients are NaN, as with a target out of range. MLML_CHECK_TARGETS=1 makes both an error.
#include <algorithm>
#include <string>
#include <vector>

#include "../ranks.h"
#include "launch.cuh"
#include "slice.cuh"

namespace mlml {
namespace {

// Lent by MindSpore for each step: an Extent or a checksum, then the pieces' sums.
constexpr size_t kWorkspace = sizeof(Extent) + kMaxBlocks * sizeof(PartialSum);

// Copies what the host waits for.
template <class T>
std::vector<T> Fetch(const T *from, int64_t size, cudaStream_t stream) {
  std::vector<T> values(size);
  Check(cudaMemcpyAsync(values.data(), from, size * sizeof(T), cudaMemcpyDeviceToHost, stream));
  Check(cudaStreamSynchronize(stream));
  return values;
}

// One call. Its last input determines how much is known.
struct Call {
  enum Parameter { kInput, kLabels, kPlace, kHeader, kTargetScores, kPartial, kDout };

  Call(const Arguments &from, Parameter last, void *on)
      : arguments(from), output(last + 1), stream(static_cast<cudaStream_t>(on)) {
    arguments.Expect(output + 2);
    batch = ReadMatrices(arguments);
    if (batch.labels.rows > kMostRows)
      arguments.Fail("there are too many rows: " + std::to_string(batch.labels.rows) + ".");
    place = ReadPlaceValues(arguments, kPlace);
    // The host takes the number of ranks from the shape of the header, which the first step writes.
    ranks = arguments.Elements(kHeader) - HeaderSize(0);
    if (ranks < 1 || ranks > kMostRanks) {
      arguments.Fail("'header' must be of 1 to " + std::to_string(kMostRanks) + " ranks, but got shape " +
                     arguments.ShapeName(kHeader) + ".");
    }
    CheckPlaceSize(arguments, kPlace, ranks);
    header = static_cast<float *>(arguments.Read(kHeader, "header", "float32", HeaderSize(ranks)));
    layout = {ranks, batch.labels.rows, batch.labels.num_labels};
    workspace = arguments.Workspace(output + 1);
    if (last >= kTargetScores) batch.labels.scores = TargetScores(kTargetScores);
    // The first two steps have all that can be wrong; after their error, the later ones write NaN.
    if (WantsChecks() && last <= kHeader) FindFaults(last);
    if (last < kHeader) return;
    extent = static_cast<Extent *>(workspace);
    Launch(ExtentKernel, 1, 1, stream, place, batch.scores.classes, ranks, header, extent);
  }

  float *TargetScores(int index) const {
    const int64_t size = batch.labels.rows * batch.labels.num_labels;
    return static_cast<float *>(arguments.Read(index, "target scores", "float32", size));
  }

  float *Partial(int index) const {
    return static_cast<float *>(arguments.Read(index, "partial", "float32", layout.Size()));
  }

  template <class T>
  Problem<T, true> Divide() const {
    Problem<T, true> problem = mlml::Divide<T, true>(batch);
    problem.extent = extent;
    problem.target_scores = batch.labels.scores;
    return problem;
  }

  // Throws as the kernels for a CPU do.
  void FindFaults(Parameter last) {
    const Place known = CheckPlace(arguments, kPlace, Fetch(place, kPlaceSize, stream).data(), batch);
    if (known.ranks != ranks) {
      arguments.Fail("'header' must be of " + std::to_string(known.ranks) + " ranks, but got shape " +
                     arguments.ShapeName(kHeader) + ".");
    }
    if (last < kHeader) return;
    CheckHeader(arguments, Fetch(header, HeaderSize(ranks), stream).data(), known, &batch);
    if (batch.labels.rows > 0) CheckTargets(batch, workspace, stream);
  }

  const Arguments &arguments;
  int output;
  cudaStream_t stream;
  Batch batch;
  const int64_t *place;
  int64_t ranks;
  float *header;
  PartialLayout layout;
  void *workspace;
  Extent *extent = nullptr;
};

void Header(const Call &call) {
  const Batch &batch = call.batch;
  auto *checksum = static_cast<unsigned long long *>(call.workspace);
  Check(cudaMemsetAsync(checksum, 0, sizeof(*checksum), call.stream));
  const int64_t blocks =
      std::clamp<int64_t>(batch.labels.rows * batch.labels.num_labels / kThreads, 1, kBlocksOfOneRound);
  Launch(ChecksumKernel<kThreads>, blocks, kThreads, call.stream, batch.labels.data, batch.labels.rows,
         batch.labels.num_labels, static_cast<int>(batch.scores.dtype), checksum);
  Launch(HeaderKernel, 1, 1, call.stream, call.place, batch.scores.classes, call.ranks, checksum, call.header);
}

template <class T>
void TargetScores(const Call &call) {
  const Batch &batch = call.batch;
  float *scores = call.TargetScores(call.output);
  if (batch.labels.rows == 0) return;
  Check(cudaMemsetAsync(scores, 0, batch.labels.rows * batch.labels.num_labels * sizeof(float), call.stream));
  Launch(TargetScoresKernel<T, kThreads>, std::min(batch.labels.rows, kMaxBlocks), kThreads, call.stream,
         call.Divide<T>(), scores);
}

template <class T>
void Partial(const Call &call) {
  float *partial = call.Partial(call.output);
  if (call.batch.labels.rows == 0) return;
  Check(cudaMemsetAsync(partial, 0, call.layout.Size() * sizeof(float), call.stream));
  const auto problem = call.Divide<T>();
  const int64_t blocks = std::min(problem.rows * problem.pieces, kMaxGrid);
  auto *pieces = reinterpret_cast<PartialSum *>(call.extent + 1);
  Launch(PartKernel<T, kThreads>, blocks, kThreads, call.stream, problem, call.layout, partial, pieces);
  if (problem.pieces > 1) {
    Launch(FinishPartKernel<kThreads>, 1, kThreads, call.stream, pieces, problem.pieces, call.extent, call.layout,
           partial);
  }
  Launch(CountKernel<T, kThreads>, blocks, kThreads, call.stream, problem, call.layout, partial);
}

template <class T>
void Loss(const Call &call, Reduction reduction) {
  const bool reduce = reduction != Reduction::kNone;
  const int64_t rows = call.batch.labels.rows;
  const float *partial = call.Partial(Call::kPartial);
  auto *loss = static_cast<T *>(call.arguments.Read(call.output, "loss", reduce ? 1 : rows));
  const int64_t blocks = reduce ? 1 : std::min((rows + kThreads - 1) / kThreads, kMaxBlocks);
  if (blocks == 0) return;
  Launch(LossOfPartsKernel<T, kThreads>, blocks, kThreads, call.stream, partial, call.layout, call.extent,
         Divisor(reduction, rows), reduce, loss);
}

template <class T>
void Gradient(const Call &call, Reduction reduction) {
  const Batch &batch = call.batch;
  const bool by_row = reduction == Reduction::kNone;
  const float *partial = call.Partial(Call::kPartial);
  const auto *dout = static_cast<const T *>(call.arguments.Read(Call::kDout, "dout", by_row ? batch.labels.rows : 1));
  auto *gradient =
      static_cast<T *>(call.arguments.Read(call.output, "gradient", batch.labels.rows * batch.scores.classes));
  if (batch.labels.rows == 0) return;
  const auto problem = call.Divide<T>();
  const Scale<T> scale = {dout, by_row, Divisor(reduction, batch.labels.rows)};
  Launch(GradientOfSliceKernel<T, kThreads>, std::min(problem.rows * problem.pieces, kMaxGrid), kThreads, call.stream,
         problem, scale, partial, call.layout, gradient);
}

}  // namespace
}  // namespace mlml

MLML_EXPORT int64_t MultilabelMarginLossClassParallelWorkspace() { return mlml::kWorkspace; }

#define MLML_STEP(STEP, LAST, RUN, SHAPE, TYPE)                                                                      \
  MLML_EXPORT int MultilabelMarginLossClassParallel##STEP(int nparam, void **params, int *ndims, int64_t **shapes,   \
                                                          const char **dtypes, void *stream, void *) {               \
    const mlml::Arguments arguments(mlml::kOfClassParallel.function, nparam, params, ndims, shapes, dtypes);         \
    const mlml::Call call(arguments, mlml::Call::LAST, stream);                                                      \
    RUN;                                                                                                             \
    return 0;                                                                                                        \
  }                                                                                                                  \
  MLML_EXPORT mlml::Shape MultilabelMarginLossClassParallel##STEP##InferShape(int *ndims, int64_t **shapes,          \
                                                                              AotExtra *) {                          \
    return mlml::StepShapes(ndims, shapes, mlml::Call::kPlace).SHAPE;                                                \
  }                                                                                                                  \
  MLML_EXPORT TypeId MultilabelMarginLossClassParallel##STEP##InferType(std::vector<TypeId> types, AotExtra *) {     \
    (void)types;                                                                                                     \
    return TYPE;                                                                                                     \
  }                                                                                                                  \
  MLML_EXPORT int MultilabelMarginLossClassParallel##STEP##Init(int *, int64_t **, const char **, AotExtra *extra) { \
    extra->workspace.assign(1, mlml::kWorkspace);                                                                    \
    return 0;                                                                                                        \
  }

// For the dtype of the input.
#define MLML_STEP_OF(STEP, LAST, RUN, ARGUMENTS, SHAPE, TYPE)                                                      \
  MLML_STEP(                                                                                                       \
      STEP, LAST,                                                                                                  \
      call.batch.scores.dtype == mlml::Dtype::kFloat16 ? mlml::RUN<__half> ARGUMENTS : mlml::RUN<float> ARGUMENTS, \
      SHAPE, TYPE)

MLML_STEP(Header, kPlace, mlml::Header(call), Header(), kNumberTypeFloat32)
MLML_STEP_OF(TargetScores, kHeader, TargetScores, (call), TargetScores(), kNumberTypeFloat32)
MLML_STEP_OF(Partial, kTargetScores, Partial, (call), Partial(), kNumberTypeFloat32)

#define MLML_LAST_STEPS(REDUCTION)                                                                                    \
  MLML_STEP_OF(REDUCTION, kPartial, Loss, (call, mlml::Reduction::k##REDUCTION), Loss(mlml::Reduction::k##REDUCTION), \
               types.at(0))                                                                                           \
  MLML_STEP_OF(Grad##REDUCTION, kDout, Gradient, (call, mlml::Reduction::k##REDUCTION), Like(0), types.at(0))

MLML_LAST_STEPS(None)
MLML_LAST_STEPS(Mean)
MLML_LAST_STEPS(Sum)
