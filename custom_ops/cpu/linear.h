// A linear layer and the loss of its scores, which never exist all at once.
//
// The scores are computed in blocks of classes and rows that stay in the cache until the loss has been made of them.
// The backward pass needs only the active pairs, which the forward pass saves (active_pairs.h).
#pragma once

#include <vector>

#include "../operator.h"
#include "active_pairs.h"
#include "elements.h"
#include "gemm.h"
#include "reduction.h"
#include "schedule.h"

namespace mlml {

constexpr Names kOfLayer = {"LinearMultilabelMarginLoss", "features", "labels"};
constexpr int64_t kMostClassesOfLayer = 1 << 24;  // so that float32 counts them exactly

// The features, labels and parameters of one call.
struct Layer {
  Batch batch;  // the labels, and the classes; the data of the scores is null, because they are never all in memory
  int64_t num_features = 0;
  Elements features, weight, bias;
  const Arguments *arguments = nullptr;
};

// Parameters 0 to 3: features, labels, weight, bias.
constexpr int kParametersOfLayer = 4;
Layer ReadLayer(const Arguments &arguments, const Names &names);

// How the work is cut. Classes are cut into ranges of whole blocks, whose sums are added in their order: so results
// depend on these, and these only on the shapes, not on the number of threads.
struct LinearWork {
  LinearWork(int64_t rows, int64_t classes, int64_t features, int64_t num_labels);
  explicit LinearWork(const Layer &layer)
      : LinearWork(layer.batch.labels.rows, layer.batch.scores.classes, layer.num_features,
                   layer.batch.labels.num_labels) {}

  int64_t rows, classes;
  int64_t blocks, range_blocks, ranges;
  int64_t part_rows, row_parts;  // with few blocks, rows are divided among the threads too
  SavedLayout layout;

  int64_t RangeBegin(int64_t range) const { return std::min(range * range_blocks * kTile, classes); }
  int64_t Parts() const { return ranges * row_parts; }
};

// The size of what the forward pass saves, in int32; -1 if one of the sizes is not known.
int64_t SavedSize(int64_t rows, int64_t classes, int64_t features, int64_t num_labels);

// A parameter that is the gradient of such elements.
inline Elements ReadGradient(const Arguments &arguments, int index, const Elements &of, int64_t size) {
  return {of.dtype, arguments.Read(index, "gradient", of.dtype == Dtype::kFloat16 ? "float16" : "float32", size)};
}

// The scores of each label that is a target, in float64 rounded once; 0 for the other labels. Throws if a target is not
// a class of the whole layer; one that is not a class of this process has score 0.
void ComputeTargetScores(const Layer &layer, float *target_scores);

// For layer.batch.labels.scores: the sum of the hinges of each row; for each label, the number of classes that are
// active with it, NaN in a row with a NaN; and the active pairs.
void ForwardPass(const Layer &layer, double *row_sums, float *active_classes, int32_t *saved);

// What the backward pass writes; null for what is not wanted.
struct LinearGradients {
  Elements features, weight, bias;
};

void BackwardPass(const Layer &layer, const float *active_classes, const int32_t *saved, const Scale &scale,
                  const LinearGradients &gradients);

// The number of threads that pays for such a layer.
int ThreadsOf(const Layer &layer);

// The scores of a block for some rows, and the memory for them.
class BlockScores {
 public:
  // Computes those of the classes [first_class, first_class + classes) of one block for the rows [first_row, ...).
  // `features` are all features as float32.
  void Compute(const Layer &layer, const float *features, int64_t first_class, int64_t classes, int64_t first_row,
               int64_t rows);

  // For the row kernels.
  const Batch &View() const { return view_; }
  Tiles BlockTiles() const { return tiles_; }
  const float *OfRow(int64_t row) const { return scores_.data() + (row - first_row_) * view_.scores.stride; }
  // The weight of the classes of the last Compute or LoadWeight, as float32.
  const float *LoadWeight(const Layer &layer, int64_t first_class, int64_t classes);

 private:
  std::vector<float> scores_;
  Floats32 weight_, bias_;
  Batch view_;
  Tiles tiles_ = {};
  int64_t first_row_ = 0;
};

}  // namespace mlml
