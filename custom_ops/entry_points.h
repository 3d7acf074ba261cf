// The symbols that MindSpore looks up in each kernel library.
//
// Forward: (input, target) -> loss. Backward: (input, target, dout) -> gradient of input. One symbol for each
// reduction and each function of the package, so that no attribute has to be read; the functions differ in what their
// errors say. Where the loss is a scalar, its buffer holds one element whether MindSpore calls that shape () or (1,).
#pragma once

#include <vector>

#include "aot.h"

namespace mlml {

// What each library defines. MindSpore passes the CUDA stream on a GPU, and null on a CPU.
int Forward(const Arguments &arguments, Reduction reduction, void *stream);
int Backward(const Arguments &arguments, Reduction reduction, void *stream);

constexpr Names kOfTarget = {"multilabel_margin_loss", "target"};
constexpr Names kOfLabels = {"multilabel_margin_loss_from_labels", "labels"};

// The shapes of the outputs, for MindSpore's dynamic graphs. There an unknown size is -1, and an unknown rank is the
// shape (-2,).
using Shape = std::vector<int64_t>;
inline Shape OneElement(const int *, int64_t **) { return {1}; }
inline Shape Rows(const int *ndims, int64_t **shapes) {
  if (ndims[0] == 2) return {shapes[0][0]};
  return {shapes[0][0] == -2 ? -1 : 1};
}
inline Shape SameAsInput(const int *ndims, int64_t **shapes) { return {shapes[0], shapes[0] + ndims[0]}; }

}  // namespace mlml

#define MLML_ENTRY_POINT(NAME, RUN, REDUCTION, SHAPE, NAMES)                                                       \
  MLML_EXPORT int NAME(int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes, void *stream, \
                       void *) {                                                                                   \
    return mlml::RUN({NAMES, nparam, params, ndims, shapes, dtypes}, mlml::Reduction::REDUCTION, stream);          \
  }                                                                                                                \
  MLML_EXPORT std::vector<int64_t> NAME##InferShape(int *ndims, int64_t **shapes, AotExtra *) {                    \
    return mlml::SHAPE(ndims, shapes);                                                                             \
  }                                                                                                                \
  MLML_EXPORT TypeId NAME##InferType(std::vector<TypeId> types, AotExtra *) { return types.at(0); }

#define MLML_ENTRY_POINTS(NAME, NAMES)                                  \
  MLML_ENTRY_POINT(NAME##None, Forward, kNone, Rows, NAMES)             \
  MLML_ENTRY_POINT(NAME##Mean, Forward, kMean, OneElement, NAMES)       \
  MLML_ENTRY_POINT(NAME##Sum, Forward, kSum, OneElement, NAMES)         \
  MLML_ENTRY_POINT(NAME##GradNone, Backward, kNone, SameAsInput, NAMES) \
  MLML_ENTRY_POINT(NAME##GradMean, Backward, kMean, SameAsInput, NAMES) \
  MLML_ENTRY_POINT(NAME##GradSum, Backward, kSum, SameAsInput, NAMES)

MLML_ENTRY_POINTS(MultilabelMarginLoss, mlml::kOfTarget)
MLML_ENTRY_POINTS(MultilabelMarginLossFromLabels, mlml::kOfLabels)
