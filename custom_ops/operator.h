// The operator: its symbols, and how they read their arguments, for every kernel library.
//
// Forward: (input, target) -> loss. Backward: (input, target, dout) -> gradient of input. One symbol for each
// reduction and each function of the package, so that no attribute has to be read; the functions differ in what their
// errors say. Where the loss is a scalar, its buffer holds one element whether MindSpore calls that shape () or (1,).
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "aot.h"
#include "definition.h"

namespace mlml {

// What the caller calls the function and its first two arguments, and whether these must have the same shape.
struct Names {
  const char *function;
  const char *input;
  const char *target;
  bool same_shape = false;
};

constexpr Names kOfTarget = {"multilabel_margin_loss", "input", "target", true};
constexpr Names kOfLabels = {"multilabel_margin_loss_from_labels", "input", "labels"};
constexpr Names kOfClassParallel = {"ClassParallelMultilabelMarginLoss", "x", "labels"};

// The matrix of labels, rows x num_labels. A 1-D input is one row.
struct Labels {
  const int32_t *data = nullptr;
  bool is_matrix = false;
  int64_t rows = 0;
  int64_t num_labels = 0;  // of a row
  int64_t num_classes = 0;
  Names names = {};
  // The scores of all labels, rows x num_labels, where the scores at hand are a slice of the classes; otherwise null.
  const float *scores = nullptr;
};

// The matrix of the scores of all classes, or of a slice of them: `classes`, from the class `first_class` on.
struct Scores {
  Dtype dtype = Dtype::kFloat32;
  const void *data = nullptr;
  int64_t first_class = 0;
  int64_t classes = 0;
  // The score of a class of a row is number row * stride + class - origin. Not all of them need lie in memory.
  int64_t stride = 0;
  int64_t origin = 0;
};

struct Batch {
  Labels labels;
  Scores scores;
};

// Parameters 0 and 1 of every kernel. For known shapes, _checks.py has raised the same errors before.
inline Batch ReadBatch(const Arguments &arguments, const Names &names) {
  Batch batch;
  batch.labels.names = names;
  const std::string input_name = "'" + std::string(names.input) + "'",
                    target_name = "'" + std::string(names.target) + "'";
  batch.scores.dtype = arguments.ReadDtype(0, names.input);
  if (!arguments.HasDtype(1, "int32")) {
    arguments.Fail("the dtype of " + target_name + " must be int32, but got " + arguments.DtypeName(1) + ".");
  }
  const std::vector<int64_t> input = arguments.Shape(0), target = arguments.Shape(1);
  const auto shape = [&](int index) { return arguments.ShapeName(index); };
  if (input.size() != 1 && input.size() != 2) {
    arguments.Fail("the rank of " + input_name + " must be 1 or 2, but got shape " + shape(0) + "; the shape of " +
                   target_name + " is " + shape(1) + ".");
  }
  batch.labels.is_matrix = input.size() == 2;
  if (names.same_shape && target != input) {
    arguments.Fail("the shape of " + target_name + " must be the same as that of " + input_name + ", " + shape(0) +
                   ", but got " + shape(1) + ".");
  }
  if (target.size() != input.size() || (batch.labels.is_matrix && target[0] != input[0])) {
    arguments.Fail(target_name + " must have as many dimensions and rows as " + input_name + ", whose shape is " +
                   shape(0) + ", but got shape " + shape(1) + ".");
  }
  batch.labels.rows = batch.labels.is_matrix ? input[0] : 1;
  batch.scores.classes = input.back();
  batch.labels.num_labels = target.back();
  batch.labels.num_classes = batch.scores.stride = batch.scores.classes;
  if (batch.labels.rows < 0 || batch.scores.classes <= 0) {
    arguments.Fail("the number of classes must be positive, but got shape " + shape(0) + "; the shape of " +
                   target_name + " is " + shape(1) + ".");
  }
  if (batch.labels.num_labels <= 0) {
    arguments.Fail("each row of " + target_name + " must have a label or a negative value, but got shape " + shape(1) +
                   "; the shape of " + input_name + " is " + shape(0) + ".");
  }
  int64_t bytes;  // of the largest array
  if (__builtin_mul_overflow(batch.labels.rows, std::max(batch.scores.classes, batch.labels.num_labels), &bytes) ||
      __builtin_mul_overflow(bytes, int64_t{sizeof(float)}, &bytes)) {
    arguments.Fail(input_name + " or " + target_name + " is too large: shapes " + shape(0) + " and " + shape(1) + ".");
  }
  batch.scores.data = arguments.Pointer(0, batch.labels.rows * batch.scores.classes);
  batch.labels.data = static_cast<const int32_t *>(arguments.Pointer(1, batch.labels.rows * batch.labels.num_labels));
  return batch;
}

// A target that is not a class.
[[noreturn]] inline void FailTarget(const Labels &labels, int64_t row, int64_t position, int32_t value) {
  const std::string target = labels.names.target;
  throw InputError(labels.names.function, "a value of '" + target + "' must be less than the number of classes, " +
                                              std::to_string(labels.num_classes) + ", but got " + target +
                                              (labels.is_matrix ? "[" + std::to_string(row) + "]" : "") + "[" +
                                              std::to_string(position) + "] = " + std::to_string(value) + ".");
}

// What each library defines. MindSpore passes the CUDA stream on a GPU, and null on a CPU.
int Forward(const Arguments &arguments, const Names &names, Reduction reduction, void *stream);
int Backward(const Arguments &arguments, const Names &names, Reduction reduction, void *stream);
// The same after Forward, which has reported each mistake in the inputs: then the gradient is NaN.
int BackwardAfterReport(const Arguments &arguments, const Names &names, Reduction reduction, void *stream);

// The shapes of the outputs, for MindSpore's dynamic graphs. There an unknown size is -1, and an unknown rank is the
// shape (-2,).
using Shape = std::vector<int64_t>;

// The shapes of the inputs there.
struct InputShapes {
  const int *ndims;
  int64_t **shapes;

  // A size of a parameter that must have `rank` dimensions; -1 if it has not, or if it is unknown.
  int64_t Size(int parameter, int dim, int rank) const {
    return ndims[parameter] == rank ? shapes[parameter][dim] : -1;
  }
  Shape Like(int parameter) const { return {shapes[parameter], shapes[parameter] + ndims[parameter]}; }
};

inline Shape OneElement(const int *, int64_t **) { return {1}; }
inline Shape Rows(const int *ndims, int64_t **shapes) {
  if (ndims[0] == 2) return {shapes[0][0]};
  return {ndims[0] == 1 && shapes[0][0] == -2 ? -1 : 1};
}
inline Shape SameAsInput(const int *ndims, int64_t **shapes) { return {shapes[0], shapes[0] + ndims[0]}; }

}  // namespace mlml

#define MLML_ENTRY_POINT(NAME, RUN, REDUCTION, SHAPE, NAMES)                                                       \
  MLML_EXPORT int NAME(int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes, void *stream, \
                       void *) {                                                                                   \
    const mlml::Arguments arguments((NAMES).function, nparam, params, ndims, shapes, dtypes);                      \
    return mlml::RUN(arguments, NAMES, mlml::Reduction::REDUCTION, stream);                                        \
  }                                                                                                                \
  MLML_EXPORT std::vector<int64_t> NAME##InferShape(int *ndims, int64_t **shapes, AotExtra *) {                    \
    return mlml::SHAPE(ndims, shapes);                                                                             \
  }                                                                                                                \
  MLML_EXPORT TypeId NAME##InferType(std::vector<TypeId> types, AotExtra *) { return types.at(0); }

#define MLML_ENTRY_POINTS_FOR(NAME, REDUCTION, SHAPE, NAMES)                          \
  MLML_ENTRY_POINT(NAME##REDUCTION, Forward, k##REDUCTION, SHAPE, NAMES)              \
  MLML_ENTRY_POINT(NAME##Grad##REDUCTION, Backward, k##REDUCTION, SameAsInput, NAMES) \
  MLML_ENTRY_POINT(NAME##GradAfterReport##REDUCTION, BackwardAfterReport, k##REDUCTION, SameAsInput, NAMES)

#define MLML_ENTRY_POINTS(NAME, NAMES)                 \
  MLML_ENTRY_POINTS_FOR(NAME, None, Rows, NAMES)       \
  MLML_ENTRY_POINTS_FOR(NAME, Mean, OneElement, NAMES) \
  MLML_ENTRY_POINTS_FOR(NAME, Sum, OneElement, NAMES)

// All symbols that MindSpore looks up, and one that calls them for ctypes, for the end of a library's main file.
#define MLML_OPERATOR                                                                                          \
  MLML_ENTRY_POINTS(MultilabelMarginLoss, mlml::kOfTarget)                                                     \
  MLML_ENTRY_POINTS(MultilabelMarginLossFromLabels, mlml::kOfLabels)                                           \
  MLML_EXPORT int MultilabelMarginLossCall(mlml::Kernel *kernel, int nparam, void **params, int *ndims,        \
                                           int64_t **shapes, const char **dtypes, void *stream, char *message, \
                                           size_t size) {                                                      \
    return mlml::CallKernel(kernel, nparam, params, ndims, shapes, dtypes, stream, message, size);             \
  }
