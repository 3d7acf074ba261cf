// The loss of scores whose classes are divided over ranks: each has a slice of them (ranks.h).
//
//   Header        (input, labels, place) -> header
//   TargetScores  (input, labels, place, header) -> target scores
//   Partial       (input, labels, place, header, target scores) -> partial
//   None and so on   (input, labels, place, header, target scores, partial) -> loss
//   GradNone ...     (input, labels, place, header, target scores, partial, dout) -> gradient of input
// Header, target scores and partial are summed over the ranks before they go on.
#include <vector>

#include "../operator.h"
#include "floating_point.h"
#include "reduction.h"
#include "slice.h"

namespace mlml {
namespace {

// One call. Its last input determines how much is known.
struct Call {
  enum Parameter { kInput, kLabels, kPlace, kHeader, kTargetScores, kPartial, kDout };

  Call(const Arguments &from, Parameter last) : arguments(from), output(last + 1) {
    arguments.Expect(output + 1);
    batch = ReadMatrices(arguments);
    place = ReadPlace(arguments, kPlace, batch);
    if (last >= kHeader) ReadHeader(arguments, kHeader, place, &batch);
    if (last >= kTargetScores) ReadTargetScores(arguments, kTargetScores, &batch.labels);
  }

  const Arguments &arguments;
  int output;
  Batch batch;
  Place place;
};

void Header(const Arguments &arguments) {
  const Call call(arguments, Call::kPlace);
  const Batch &batch = call.batch;
  Checksum checksum;
  for (int64_t size : {batch.labels.rows, batch.labels.num_labels, static_cast<int64_t>(batch.scores.dtype)}) {
    checksum.Add(size);
  }
  checksum.Add(batch.labels.data, batch.labels.rows * batch.labels.num_labels * static_cast<int64_t>(sizeof(int32_t)));
  void *header = arguments.Read(call.output, "header", "float32", HeaderSize(call.place.ranks));
  WriteHeader(call.place, batch.scores.classes, checksum.Value(), static_cast<float *>(header));
}

void TargetScores(const Arguments &arguments) {
  const auto read_place = [&] { ReadPlace(arguments, Call::kPlace, ReadMatrices(arguments)); };
  if (!arguments.RunAfterReport(Call::kHeader + 1, read_place)) return;
  const Call call(arguments, Call::kHeader);
  const Batch &batch = call.batch;
  const int64_t size = batch.labels.rows * batch.labels.num_labels;
  auto *scores = static_cast<float *>(arguments.Read(call.output, "target scores", "float32", size));
  std::fill_n(scores, size, 0.0f);
  for (int64_t row = 0; row < batch.labels.rows; ++row) {
    ForEachTarget(batch, row, [&](int64_t j, int64_t i) {
      const int64_t from = row * batch.scores.classes + i;
      scores[row * batch.labels.num_labels + j] = batch.scores.dtype == Dtype::kFloat16
                                                      ? ToFloat(static_cast<const Float16 *>(batch.scores.data)[from])
                                                      : static_cast<const float *>(batch.scores.data)[from];
    });
  }
}

void WritePartial(const Arguments &arguments) {
  const Call call(arguments, Call::kTargetScores);
  const Batch &batch = call.batch;
  const Partial<float> partial(arguments, call.output, call.place, batch.labels);
  InStandardFloatingPoint([&] {
    WriteParts(call.place, batch.labels, RowSums(batch), partial);
    std::fill_n(partial.counts, batch.labels.rows * batch.labels.num_labels, 0.0f);
    const RowKernels &kernels = SelectRowKernels(batch.scores.dtype);
    const auto no_scale = [](int64_t) { return 0.0; };
    Gradient(batch, no_scale, nullptr, [&](const Row &row, bool has_nan, const Counts &counts) {
      const std::vector<int64_t> active = kernels.active_classes(row, counts);
      for (size_t j = 0; j < row.targets.size(); ++j) {
        partial.counts[row.index * batch.labels.num_labels + j] = has_nan ? NAN : static_cast<float>(active[j]);
      }
    });
  });
}

void Loss(const Arguments &arguments, Reduction reduction) {
  const Call call(arguments, Call::kPartial);
  const Partial<const float> partial(arguments, Call::kPartial, call.place, call.batch.labels);
  void *loss = arguments.Read(call.output, "loss", LossSize(call.batch.labels, reduction));
  InStandardFloatingPoint([&] { Reduce(RowLosses(partial), call.batch.scores.dtype, reduction, loss); });
}

void WriteGradient(const Arguments &arguments, Reduction reduction) {
  const Call call(arguments, Call::kDout);
  const Batch &batch = call.batch;
  const Partial<const float> partial(arguments, Call::kPartial, call.place, batch.labels);
  const Scale scale(batch.labels, batch.scores.dtype, reduction,
                    arguments.Read(Call::kDout, "dout", LossSize(batch.labels, reduction)));
  void *gradient = arguments.Read(call.output, "gradient", batch.labels.rows * batch.scores.classes);
  InStandardFloatingPoint([&] {
    const RowKernels &kernels = SelectRowKernels(batch.scores.dtype);
    Gradient(batch, scale, gradient, [&](const Row &row, bool, const Counts &) {
      std::vector<int64_t> active;
      const bool has_nan = !partial.ReadCounts(row.index, &active);
      kernels.finish_gradient(batch, row, {0, NumTiles(batch.scores.classes)}, has_nan, active.data(), gradient);
    });
  });
}

}  // namespace
}  // namespace mlml

#define MLML_STEP(STEP, RUN, SHAPES, TYPE)                                                                             \
  MLML_SHARD_STEP(MultilabelMarginLossClassParallel##STEP, mlml::kOfClassParallel.function, 2, mlml::Shape, mlml::RUN, \
                  shapes_of.SHAPES, TypeId, TYPE)

// Errors of the inputs are raised by the first two steps alone.
#define MLML_LATER_STEP(STEP, OUTPUT, RUN, SHAPES, TYPE) \
  MLML_STEP(STEP, AfterReport(arguments, mlml::Call::OUTPUT + 1, [&] { mlml::RUN; }), SHAPES, TYPE)

#define MLML_LAST_STEPS(REDUCTION)                                                     \
  MLML_LATER_STEP(REDUCTION, kPartial, Loss(arguments, mlml::Reduction::k##REDUCTION), \
                  Loss(mlml::Reduction::k##REDUCTION), types.at(0))                    \
  MLML_LATER_STEP(Grad##REDUCTION, kDout, WriteGradient(arguments, mlml::Reduction::k##REDUCTION), Like(0), types.at(0))

MLML_STEP(Header, Header(arguments), Header(), kNumberTypeFloat32)
MLML_STEP(TargetScores, TargetScores(arguments), TargetScores(), kNumberTypeFloat32)
MLML_LATER_STEP(Partial, kTargetScores, WritePartial(arguments), Partial(), kNumberTypeFloat32)
MLML_LAST_STEPS(None)
MLML_LAST_STEPS(Mean)
MLML_LAST_STEPS(Sum)
