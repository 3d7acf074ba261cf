// The operators of the linear layer: its symbols, and how they read their arguments.
//
// Forward: (features, labels, weight, bias) -> loss, target scores, active classes, saved. Backward: (the same, target
// scores, active classes, saved, dout) -> gradients of features, weight and bias, or of some of these.
#include "linear.h"

#include <limits>

#include "floating_point.h"
#include "slice.h"

namespace mlml {
namespace {

constexpr Names kOfFunction = {"linear_multilabel_margin_loss", "features", "labels"};

using Shapes = std::vector<Shape>;

Shapes ForwardShapes(const InputShapes &inputs, Reduction reduction) {
  const int64_t rows = inputs.Size(0, 0, 2), features = inputs.Size(0, 1, 2);
  const int64_t num_labels = inputs.Size(1, 1, 2), classes = inputs.Size(2, 0, 2);
  const std::vector<int64_t> loss = {reduction == Reduction::kNone ? rows : 1};
  return {loss, {rows, num_labels}, {rows, num_labels}, {SavedSize(rows, classes, features, num_labels)}};
}

int LinearForward(const Arguments &arguments, const Names &names, Reduction reduction) {
  enum { kLoss = kParametersOfLayer, kTargetScores, kActiveClasses, kSaved, kEnd };
  arguments.Expect(kEnd);
  Layer layer = ReadLayer(arguments, names);
  const int64_t num_labels = layer.batch.labels.rows * layer.batch.labels.num_labels;
  void *loss = arguments.Read(kLoss, "loss", LossSize(layer.batch.labels, reduction));
  auto *target_scores = static_cast<float *>(arguments.Read(kTargetScores, "target scores", "float32", num_labels));
  auto *active_classes = static_cast<float *>(arguments.Read(kActiveClasses, "active classes", "float32", num_labels));
  const int64_t size = LinearWork(layer).layout.Size();
  auto *saved = static_cast<int32_t *>(arguments.Read(kSaved, "saved", "int32", size));
  InStandardFloatingPoint([&] {
    ComputeTargetScores(layer, target_scores);
    layer.batch.labels.scores = target_scores;
    std::vector<double> sums(layer.batch.labels.rows);
    ForwardPass(layer, sums.data(), active_classes, saved);
    for (double &of_row : sums) of_row /= static_cast<double>(layer.batch.labels.num_classes);
    Reduce(sums, layer.features.dtype, reduction, loss);
  });
  return 0;
}

// Which gradients an operator has, in this order.
enum Wanted : unsigned { kOfFeatures = 1, kOfParameters = 2 };

int LinearBackward(const Arguments &arguments, Reduction reduction, unsigned wanted) {
  enum { kTargetScores = kParametersOfLayer, kActiveClasses, kSaved, kDout, kGradients };
  arguments.Expect(kGradients + ((wanted & kOfFeatures) != 0 ? 1 : 0) + ((wanted & kOfParameters) != 0 ? 2 : 0));
  Layer layer = ReadLayer(arguments, kOfFunction);
  Batch &batch = layer.batch;
  const int64_t num_labels = batch.labels.rows * batch.labels.num_labels;
  const auto read_labels = [&](int index, const char *name) {
    return static_cast<const float *>(arguments.Read(index, name, "float32", num_labels));
  };
  batch.labels.scores = read_labels(kTargetScores, "target scores");
  const float *active_classes = read_labels(kActiveClasses, "active classes");
  const int64_t size = LinearWork(layer).layout.Size();
  const auto *saved = static_cast<const int32_t *>(arguments.Read(kSaved, "saved", "int32", size));
  const Scale scale(batch.labels, layer.features.dtype, reduction,
                    arguments.Read(kDout, "dout", LossSize(batch.labels, reduction)));
  LinearGradients gradients;
  int index = kGradients;
  if ((wanted & kOfFeatures) != 0)
    gradients.features = ReadGradient(arguments, index++, layer.features, batch.labels.rows * layer.num_features);
  if ((wanted & kOfParameters) != 0) {
    gradients.weight = ReadGradient(arguments, index++, layer.weight, batch.scores.classes * layer.num_features);
    gradients.bias = ReadGradient(arguments, index++, layer.bias, batch.scores.classes);
  }
  // The forward pass has reported a label that is no class, and has saved nothing.
  const auto check_labels = [&] {
    for (int64_t row = 0; row < batch.labels.rows; ++row) ForEachTarget(batch, row, [](int64_t, int64_t) {});
  };
  if (!arguments.RunAfterReport(kGradients, check_labels)) return 0;
  InStandardFloatingPoint([&] { BackwardPass(layer, active_classes, saved, scale, gradients); });
  return 0;
}

}  // namespace
}  // namespace mlml

// The size of 'saved', in int32.
MLML_EXPORT int64_t MultilabelMarginLossLinearSavedSize(int64_t rows, int64_t classes, int64_t features,
                                                        int64_t num_labels) {
  return mlml::SavedSize(rows, classes, features, num_labels);
}

// Whether the backward pass computes no scores, whatever is active: then its two halves share no work.
MLML_EXPORT int MultilabelMarginLossLinearSavesAll(int64_t rows, int64_t classes, int64_t features,
                                                   int64_t num_labels) {
  const mlml::LinearWork work(rows, classes, features, num_labels);
  return work.layout.SavedAs() == mlml::SavedLayout::Mode::kPacked ? 1 : 0;
}

// An operator, and the functions by which MindSpore infers the shape and dtype of its output, or vectors of these for
// several outputs.
#define MLML_LINEAR(NAME, RUN, SHAPE_TYPE, SHAPES, TYPE_TYPE, ...)                                                     \
  MLML_EXPORT int NAME(int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes, void *, void *) { \
    const mlml::Arguments arguments(mlml::kOfFunction.function, nparam, params, ndims, shapes, dtypes);                \
    return mlml::RUN;                                                                                                  \
  }                                                                                                                    \
  MLML_EXPORT SHAPE_TYPE NAME##InferShape(int *ndims, int64_t **shapes, AotExtra *) {                                  \
    const mlml::InputShapes inputs = {ndims, shapes};                                                                  \
    return SHAPES;                                                                                                     \
  }                                                                                                                    \
  MLML_EXPORT TYPE_TYPE NAME##InferType(std::vector<TypeId> types, AotExtra *) { return __VA_ARGS__; }

#define MLML_LINEAR_FORWARD(NAME, REDUCTION, NAMES)                                                                \
  MLML_LINEAR(NAME##REDUCTION, LinearForward(arguments, mlml::NAMES, mlml::Reduction::k##REDUCTION), mlml::Shapes, \
              mlml::ForwardShapes(inputs, mlml::Reduction::k##REDUCTION), std::vector<TypeId>,                     \
              {types.at(0), kNumberTypeFloat32, kNumberTypeFloat32, kNumberTypeInt32})

#define MLML_LINEAR_OPERATORS(REDUCTION)                                                                         \
  MLML_LINEAR_FORWARD(MultilabelMarginLossLinear, REDUCTION, kOfFunction)                                        \
  MLML_LINEAR_FORWARD(MultilabelMarginLossLinearLayer, REDUCTION, kOfLayer)                                      \
  MLML_LINEAR(MultilabelMarginLossLinearGrad##REDUCTION,                                                         \
              LinearBackward(arguments, mlml::Reduction::k##REDUCTION, mlml::kOfFeatures | mlml::kOfParameters), \
              mlml::Shapes, (mlml::Shapes{inputs.Like(0), inputs.Like(2), inputs.Like(3)}), std::vector<TypeId>, \
              {types.at(0), types.at(2), types.at(3)})                                                           \
  MLML_LINEAR(MultilabelMarginLossLinearGradFeatures##REDUCTION,                                                 \
              LinearBackward(arguments, mlml::Reduction::k##REDUCTION, mlml::kOfFeatures), mlml::Shape,          \
              inputs.Like(0), TypeId, types.at(0))                                                               \
  MLML_LINEAR(MultilabelMarginLossLinearGradParameters##REDUCTION,                                               \
              LinearBackward(arguments, mlml::Reduction::k##REDUCTION, mlml::kOfParameters), mlml::Shapes,       \
              (mlml::Shapes{inputs.Like(2), inputs.Like(3)}), std::vector<TypeId>, {types.at(2), types.at(3)})

MLML_LINEAR_OPERATORS(None)
MLML_LINEAR_OPERATORS(Mean)
MLML_LINEAR_OPERATORS(Sum)
