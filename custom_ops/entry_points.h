// The symbols that MindSpore looks up in each kernel library.
//
// Forward: (input, target) -> loss. Backward: (input, target, dout) -> gradient of input. One symbol for each
// reduction, so that no attribute has to be read. Where the loss is a scalar, its buffer holds one element whether
// MindSpore calls that shape () or (1,).
#pragma once

#include <vector>

#include "aot.h"

namespace mlml {

// What each library defines. MindSpore passes the CUDA stream on a GPU, and null on a CPU.
int Forward(const Arguments &arguments, Reduction reduction, void *stream);
int Backward(const Arguments &arguments, Reduction reduction, void *stream);

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

#define MLML_ENTRY_POINT(NAME, RUN, REDUCTION, SHAPE)                                                              \
  MLML_EXPORT int NAME(int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes, void *stream, \
                       void *) {                                                                                   \
    return mlml::RUN({nparam, params, ndims, shapes, dtypes}, mlml::Reduction::REDUCTION, stream);                 \
  }                                                                                                                \
  MLML_EXPORT std::vector<int64_t> NAME##InferShape(int *ndims, int64_t **shapes, AotExtra *) {                    \
    return mlml::SHAPE(ndims, shapes);                                                                             \
  }                                                                                                                \
  MLML_EXPORT TypeId NAME##InferType(std::vector<TypeId> types, AotExtra *) { return types.at(0); }

MLML_ENTRY_POINT(MultilabelMarginLossNone, Forward, kNone, Rows)
MLML_ENTRY_POINT(MultilabelMarginLossMean, Forward, kMean, OneElement)
MLML_ENTRY_POINT(MultilabelMarginLossSum, Forward, kSum, OneElement)
MLML_ENTRY_POINT(MultilabelMarginLossGradNone, Backward, kNone, SameAsInput)
MLML_ENTRY_POINT(MultilabelMarginLossGradMean, Backward, kMean, SameAsInput)
MLML_ENTRY_POINT(MultilabelMarginLossGradSum, Backward, kSum, SameAsInput)
