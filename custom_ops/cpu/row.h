// One row of the batch: what the scheduler (multilabel_margin_loss.cpp) and the kernels (row.cpp) agree on.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../aot.h"
#include "../definition.h"

namespace mlml {

// A row is worked on in pieces of this many classes, by one thread or by several. The loss is the sum of the pieces'
// sums in their order, so it does not depend on the number of threads.
constexpr int64_t kPiece = 1 << 15;

inline int64_t Pieces(int64_t classes) { return (classes + kPiece - 1) / kPiece; }

// Floats that begin at a cache line, so that no leaf of the search tree lies across two.
class AlignedFloats {
 public:
  void Assign(int64_t count, float value) {
    lines_.assign((count + kLine - 1) / kLine, Line{});
    std::fill_n(data(), count, value);
  }
  float *data() { return reinterpret_cast<float *>(lines_.data()); }
  const float *data() const { return reinterpret_cast<const float *>(lines_.data()); }

 private:
  static constexpr int64_t kLine = 16;
  struct alignas(kLine * sizeof(float)) Line {
    float values[kLine];
  };
  std::vector<Line> lines_;
};

struct SortEntry {
  uint32_t key;  // ordered as the thresholds are
  int32_t j;
};

// A row's targets, prepared for looking up any score: filled once, then only read.
//
// Each target has a threshold q (definition.h). Of the sorted thresholds, let k be less than a score x: its rank. The
// class with that score adds to the row's loss
//   sum over these k thresholds of x - q = k * (x - base) + rest[k], for a base among them.
struct Row {
  int64_t index = 0;               // in the batch
  double scale = 0;                // the gradient of one active pair
  std::vector<int32_t> targets;    // y[0..T)
  std::vector<float> thresholds;   // of each target, padded by +inf
  std::vector<int64_t> by_tile;    // the positions in targets, ordered by the tile of classes that the target is in
  std::vector<int64_t> tile_ends;  // where each tile's targets end in by_tile
  float absent = 0;                // a score that no threshold is less than: it stands for targets and padding
  AlignedFloats sorted;            // the thresholds, sorted, padded by +inf to 2^levels leaves
  std::vector<int32_t> ranks;      // of each threshold: how many are less
  int levels = 0;                  // of the search tree; 0 if there is none
  int64_t leaf = 1;                // how many thresholds one leaf of the tree has
  std::vector<float> tree;         // the greatest of each leaf, as a binary tree: level d in [2^d, 2^(d + 1))
  std::vector<float> top;          // its first t levels, spread to 2^t entries each: entry i of level d at d * 2^t + i
  std::vector<float> base, rest;   // as above; row_loss.h says where a base stands
  std::vector<SortEntry> entries, moved;  // scratch for sorting
  std::vector<float> value;               // [k], the gradient of a class that is active with k targets
};

// What the pieces found out about the targets' gradients: the number of classes of rank k (or, where there is no search
// tree, active with target k) is the sum of the 2^log2_ways counts from k * 2^log2_ways on.
struct Counts {
  int log2_ways = 0;
  std::vector<uint32_t> counts;
};

// The steps of one row, for one dtype and one instruction set.
struct RowKernels {
  // Reads the targets of row `index`. Throws if one is out of range.
  void (*prepare_loss)(const Batch &batch, int64_t index, Row *row);
  // The sum of the hinges of one piece's classes, and what in it is not finite.
  PartialSum (*sum_piece)(const Batch &batch, const Row &row, int64_t piece);
  // The loss of the row, given the sum of its pieces.
  double (*loss)(const Batch &batch, const Row &row, PartialSum sum);

  // The same for the gradient, whose active pairs weigh `scale`.
  void (*prepare_gradient)(const Batch &batch, int64_t index, double scale, Row *row);
  // Makes room for the row's counts, and sets them to 0.
  void (*start_counts)(const Row &row, Counts *counts);
  // Writes the gradient of one piece's classes, 0 for targets, and counts. Returns whether a score is NaN.
  bool (*gradient_piece)(const Batch &batch, const Row &row, int64_t piece, Counts *counts, void *gradient);
  // Writes the gradient of the targets, or of the whole row if it has a NaN.
  void (*finish_gradient)(const Batch &batch, const Row &row, bool has_nan, const Counts &counts, void *gradient);
};

// The kernels for the instruction set in use.
const RowKernels &SelectRowKernels(Dtype dtype);

}  // namespace mlml
