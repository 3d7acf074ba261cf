// The multi-label margin loss and its gradient on a CPU.
//
// A row has scores x[0..C) and labels y. Let T be the position of the first negative label (C if there is none): the
// targets are y[0..T), as a list in which a class may repeat, and P is the set of classes in it.
//   loss        = 1/C * sum over j < T, i not in P of max(0, 1 - x[y_j] + x_i)
//   d loss/dx_i = k_i/C for i not in P, with k_i = #{j : 1 - x[y_j] + x_i > 0}, and
//   d loss/dx_p = -1/C * sum over j with y_j = p of #{i not in P : 1 - x[p] + x_i > 0}
// A NaN anywhere in a row that has targets makes its loss and its whole gradient NaN.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "aot.h"
#include "float16.h"

namespace mlml {
namespace {

enum class Reduction { kNone, kMean, kSum };

int Forward(const Arguments &arguments, Reduction reduction);
int Backward(const Arguments &arguments, Reduction reduction);

// The shapes of the outputs, for MindSpore's dynamic graphs.
using Shape = std::vector<int64_t>;
Shape OneElement(const int *, int64_t **) { return {1}; }
Shape Rows(const int *ndims, int64_t **shapes) { return {ndims[0] == 2 ? shapes[0][0] : 1}; }
Shape SameAsInput(const int *ndims, int64_t **shapes) { return {shapes[0], shapes[0] + ndims[0]}; }

}  // namespace
}  // namespace mlml

// The entry points. Forward: (input, target) -> loss. Backward: (input, target, dout) -> gradient of input.
// Where the loss is a scalar, its buffer holds one element whether MindSpore calls that shape () or (1,).

#define MLML_KERNEL(NAME, INPUTS, RUN, REDUCTION, SHAPE)                                                               \
  MLML_EXPORT int NAME(int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes, void *, void *) { \
    return mlml::RUN({nparam, INPUTS + 1, params, ndims, shapes, dtypes}, mlml::Reduction::REDUCTION);                 \
  }                                                                                                                    \
  MLML_EXPORT std::vector<int64_t> NAME##InferShape(int *ndims, int64_t **shapes, AotExtra *) {                        \
    return mlml::SHAPE(ndims, shapes);                                                                                 \
  }                                                                                                                    \
  MLML_EXPORT TypeId NAME##InferType(std::vector<TypeId> types, AotExtra *) { return types.at(0); }

MLML_KERNEL(MultilabelMarginLossNone, 2, Forward, kNone, Rows)
MLML_KERNEL(MultilabelMarginLossMean, 2, Forward, kMean, OneElement)
MLML_KERNEL(MultilabelMarginLossSum, 2, Forward, kSum, OneElement)
MLML_KERNEL(MultilabelMarginLossGradNone, 3, Backward, kNone, SameAsInput)
MLML_KERNEL(MultilabelMarginLossGradMean, 3, Backward, kMean, SameAsInput)
MLML_KERNEL(MultilabelMarginLossGradSum, 3, Backward, kSum, SameAsInput)

namespace mlml {
namespace {

// What one row needs beside its scores and labels; reused from row to row.
struct Workspace {
  std::vector<int32_t> targets;  // y[0..T)
  std::vector<bool> is_target;   // P
  std::vector<float> scores;     // x
  std::vector<int64_t> active;   // per class: k_i, or for a target minus the number of classes it is active with
};

// Fills `workspace` with the row's targets and scores.
template <class T>
void ReadRow(const Batch &batch, int64_t row, Workspace *workspace) {
  const int32_t *labels = batch.target + row * batch.classes;
  const T *input = static_cast<const T *>(batch.input) + row * batch.classes;
  workspace->targets.clear();
  workspace->is_target.assign(batch.classes, false);
  for (int64_t j = 0; j < batch.classes && labels[j] >= 0; ++j) {
    if (labels[j] >= batch.classes) {
      Fail("a value of 'target' must be less than the number of classes, " + std::to_string(batch.classes) +
           ", but got target" + (batch.is_matrix ? "[" + std::to_string(row) + "]" : "") + "[" + std::to_string(j) +
           "] = " + std::to_string(labels[j]) + ".");
    }
    workspace->targets.push_back(labels[j]);
    workspace->is_target[labels[j]] = true;
  }
  workspace->scores.resize(batch.classes);
  for (int64_t i = 0; i < batch.classes; ++i) workspace->scores[i] = ToFloat(input[i]);
}

bool HasNan(const std::vector<float> &scores) {
  for (float score : scores) {
    if (std::isnan(score)) return true;
  }
  return false;
}

// The sum over the row's targets and other classes of the hinge, before the division by C. Each hinge is rounded to
// float32 and their sum is accumulated in double: this is what makes the documented example print 0.325.
double HingeSum(const Workspace &row) {
  if (!row.targets.empty() && HasNan(row.scores)) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0;
  for (int32_t target : row.targets) {
    const float margin = 1.0f - row.scores[target];
    for (size_t i = 0; i < row.scores.size(); ++i) {
      if (row.is_target[i]) continue;
      const float hinge = margin + row.scores[i];
      if (hinge <= 0) continue;
      sum += std::isinf(hinge) ? 1.0 - row.scores[target] + row.scores[i] : hinge;
    }
  }
  return sum;
}

void CountActive(Workspace *row) {
  row->active.assign(row->scores.size(), 0);
  for (int32_t target : row->targets) {
    const float margin = 1.0f - row->scores[target];
    for (size_t i = 0; i < row->scores.size(); ++i) {
      if (row->is_target[i] || !(margin + row->scores[i] > 0)) continue;
      row->active[i] += 1;
      row->active[target] -= 1;
    }
  }
}

template <class T>
int ForwardOf(const Batch &batch, Reduction reduction, T *loss) {
  Workspace workspace;
  double total = 0;
  for (int64_t row = 0; row < batch.rows; ++row) {
    ReadRow<T>(batch, row, &workspace);
    const double row_loss = HingeSum(workspace) / static_cast<double>(batch.classes);
    if (reduction == Reduction::kNone) loss[row] = FromDouble<T>(row_loss);
    total += row_loss;
  }
  if (reduction == Reduction::kSum) loss[0] = FromDouble<T>(total);
  if (reduction == Reduction::kMean)
    loss[0] = FromDouble<T>(batch.rows == 0 ? 0 : total / static_cast<double>(batch.rows));
  return 0;
}

template <class T>
int BackwardOf(const Batch &batch, Reduction reduction, const T *dout, T *gradient) {
  Workspace workspace;
  for (int64_t row = 0; row < batch.rows; ++row) {
    ReadRow<T>(batch, row, &workspace);
    CountActive(&workspace);
    double scale = ToFloat(dout[reduction == Reduction::kNone ? row : 0]) / static_cast<double>(batch.classes);
    if (reduction == Reduction::kMean) scale /= static_cast<double>(batch.rows);
    if (HasNan(workspace.scores)) scale = std::numeric_limits<double>::quiet_NaN();
    for (int64_t i = 0; i < batch.classes; ++i) {
      const double value = workspace.targets.empty() ? 0.0 : static_cast<double>(workspace.active[i]) * scale;
      gradient[row * batch.classes + i] = FromDouble<T>(value);
    }
  }
  return 0;
}

int Forward(const Arguments &arguments, Reduction reduction) {
  const Batch batch = arguments.ReadBatch();
  void *loss = arguments.Read(2, "loss", reduction == Reduction::kNone ? batch.rows : 1);
  return batch.dtype == Dtype::kFloat16 ? ForwardOf(batch, reduction, static_cast<Float16 *>(loss))
                                        : ForwardOf(batch, reduction, static_cast<float *>(loss));
}

int Backward(const Arguments &arguments, Reduction reduction) {
  const Batch batch = arguments.ReadBatch();
  const void *dout = arguments.Read(2, "dout", reduction == Reduction::kNone ? batch.rows : 1);
  void *gradient = arguments.Read(3, "gradient", batch.rows * batch.classes);
  return batch.dtype == Dtype::kFloat16
             ? BackwardOf(batch, reduction, static_cast<const Float16 *>(dout), static_cast<Float16 *>(gradient))
             : BackwardOf(batch, reduction, static_cast<const float *>(dout), static_cast<float *>(gradient));
}

}  // namespace
}  // namespace mlml
