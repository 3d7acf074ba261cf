// The linear layer whose classes are divided over ranks (ranks.h): the steps of class_parallel.cpp, for features,
// labels, weight and bias.
//
//   Header        (features, labels, weight, bias, place) -> header
//   TargetScores  (features, labels, weight, bias, place, header) -> target scores
//   Partial       (features, labels, weight, bias, place, header, target scores) -> partial, saved
//   None and so on   (..., target scores, partial, saved) -> loss
//   GradNone ...     (..., target scores, partial, saved, dout) -> gradients of features, weight and bias
// Header, target scores and partial are summed over the ranks before they go on, and so is the gradient of the
// features.
#include "floating_point.h"
#include "linear.h"
#include "slice.h"

namespace mlml {
namespace {

struct ShardedCall {
  enum Parameter { kPlace = kParametersOfLayer, kHeader, kTargetScores, kPartial, kSaved, kDout };

  ShardedCall(const Arguments &from, Parameter last, int outputs) : arguments(from), output(last + 1) {
    arguments.Expect(output + outputs);
    layer = ReadLayer(arguments, kOfLayer);
    Batch &batch = layer.batch;
    place = ReadPlace(arguments, kPlace, batch);
    if (last >= kHeader) ReadHeader(arguments, kHeader, place, &batch);
    if (last >= kTargetScores) ReadTargetScores(arguments, kTargetScores, &batch.labels);
  }

  int32_t *Saved(int index) const {
    return static_cast<int32_t *>(arguments.Read(index, "saved", "int32", LinearWork(layer).layout.Size()));
  }

  const Arguments &arguments;
  int output;
  Layer layer;
  Place place;
};

void Header(const Arguments &arguments) {
  const ShardedCall call(arguments, ShardedCall::kPlace, 1);
  const Layer &layer = call.layer;
  const Batch &batch = layer.batch;
  Checksum checksum;
  for (int64_t size :
       {batch.labels.rows, batch.labels.num_labels, layer.num_features, static_cast<int64_t>(layer.features.dtype)}) {
    checksum.Add(size);
  }
  checksum.Add(batch.labels.data, batch.labels.rows * batch.labels.num_labels * static_cast<int64_t>(sizeof(int32_t)));
  checksum.Add(layer.features.data, batch.labels.rows * layer.num_features * layer.features.Size());
  void *header = arguments.Read(call.output, "header", "float32", HeaderSize(call.place.ranks));
  WriteHeader(call.place, batch.scores.classes, checksum.Value(), static_cast<float *>(header));
}

void TargetScores(const Arguments &arguments) {
  const auto read_place = [&] { ReadPlace(arguments, ShardedCall::kPlace, ReadLayer(arguments, kOfLayer).batch); };
  if (!arguments.RunAfterReport(ShardedCall::kHeader + 1, read_place)) return;
  const ShardedCall call(arguments, ShardedCall::kHeader, 1);
  const int64_t size = call.layer.batch.labels.rows * call.layer.batch.labels.num_labels;
  auto *scores = static_cast<float *>(arguments.Read(call.output, "target scores", "float32", size));
  InStandardFloatingPoint([&] { ComputeTargetScores(call.layer, scores); });
}

void WritePartial(const Arguments &arguments) {
  const ShardedCall call(arguments, ShardedCall::kTargetScores, 2);
  const Batch &batch = call.layer.batch;
  const Partial<float> partial(arguments, call.output, call.place, batch.labels);
  int32_t *saved = call.Saved(call.output + 1);
  InStandardFloatingPoint([&] {
    std::vector<double> sums(batch.labels.rows);
    ForwardPass(call.layer, sums.data(), partial.counts, saved);
    WriteParts(call.place, batch.labels, sums, partial);
  });
}

void Loss(const Arguments &arguments, Reduction reduction) {
  const ShardedCall call(arguments, ShardedCall::kSaved, 1);
  const Batch &batch = call.layer.batch;
  const Partial<const float> partial(arguments, ShardedCall::kPartial, call.place, batch.labels);
  call.Saved(ShardedCall::kSaved);  // which the gradient needs
  void *loss = arguments.Read(call.output, "loss", LossSize(batch.labels, reduction));
  InStandardFloatingPoint([&] { Reduce(RowLosses(partial), call.layer.features.dtype, reduction, loss); });
}

void WriteGradients(const Arguments &arguments, Reduction reduction) {
  const ShardedCall call(arguments, ShardedCall::kDout, 3);
  const Layer &layer = call.layer;
  const Batch &batch = layer.batch;
  const Partial<const float> partial(arguments, ShardedCall::kPartial, call.place, batch.labels);
  const Scale scale(batch.labels, layer.features.dtype, reduction,
                    arguments.Read(ShardedCall::kDout, "dout", LossSize(batch.labels, reduction)));
  const LinearGradients gradients = {
      ReadGradient(arguments, call.output, layer.features, batch.labels.rows * layer.num_features),
      ReadGradient(arguments, call.output + 1, layer.weight, batch.scores.classes * layer.num_features),
      ReadGradient(arguments, call.output + 2, layer.bias, batch.scores.classes),
  };
  const int32_t *saved = call.Saved(ShardedCall::kSaved);
  InStandardFloatingPoint([&] { BackwardPass(layer, partial.counts, saved, scale, gradients); });
}

std::vector<Shape> PartialShapes(const StepShapes &shapes) {
  const int64_t saved = SavedSize(shapes.Rows(), shapes.Size(2, 0, 2), shapes.Size(0, 1, 2), shapes.NumLabels());
  return {shapes.Partial(), {saved}};
}

std::vector<Shape> GradientShapes(const StepShapes &shapes) { return {shapes.Like(0), shapes.Like(2), shapes.Like(3)}; }

}  // namespace
}  // namespace mlml

#define MLML_STEP(STEP, RUN, SHAPE_TYPE, SHAPES, TYPE_TYPE, TYPES)                                                    \
  MLML_SHARD_STEP(MultilabelMarginLossLinearSharded##STEP, mlml::kOfLayer.function, 4, SHAPE_TYPE, mlml::RUN, SHAPES, \
                  TYPE_TYPE, TYPES)
#define MLML_STEP_OF_ONE(STEP, RUN, SHAPES, TYPE) MLML_STEP(STEP, RUN, mlml::Shape, shapes_of.SHAPES, TypeId, TYPE)
#define MLML_STEP_OF_SEVERAL(STEP, RUN, SHAPES, ...) \
  MLML_STEP(STEP, RUN, std::vector<mlml::Shape>, mlml::SHAPES(shapes_of), std::vector<TypeId>, (__VA_ARGS__))

// Errors of the inputs are raised by the first two steps alone.
#define MLML_QUIET(OUTPUT, RUN) AfterReport(arguments, mlml::ShardedCall::OUTPUT + 1, [&] { mlml::RUN; })

#define MLML_LAST_STEPS(REDUCTION)                                                                                   \
  MLML_STEP_OF_ONE(REDUCTION, MLML_QUIET(kSaved, Loss(arguments, mlml::Reduction::k##REDUCTION)),                    \
                   Loss(mlml::Reduction::k##REDUCTION), types.at(0))                                                 \
  MLML_STEP_OF_SEVERAL(Grad##REDUCTION, MLML_QUIET(kDout, WriteGradients(arguments, mlml::Reduction::k##REDUCTION)), \
                       GradientShapes, std::vector<TypeId>{types.at(0), types.at(2), types.at(3)})

MLML_STEP_OF_ONE(Header, Header(arguments), Header(), kNumberTypeFloat32)
MLML_STEP_OF_ONE(TargetScores, TargetScores(arguments), TargetScores(), kNumberTypeFloat32)
MLML_STEP_OF_SEVERAL(Partial, MLML_QUIET(kTargetScores, WritePartial(arguments)), PartialShapes,
                     std::vector<TypeId>{kNumberTypeFloat32, kNumberTypeInt32})
MLML_LAST_STEPS(None)
MLML_LAST_STEPS(Mean)
MLML_LAST_STEPS(Sum)
