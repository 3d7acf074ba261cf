// One row of the batch: what the scheduler (schedule.h) and the kernels (row.cpp) agree on.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../operator.h"

namespace mlml {

// The classes are worked on in tiles that fit the first-level cache.
constexpr int64_t kTile = 1024;

inline int64_t NumTiles(int64_t classes) { return (classes + kTile - 1) / kTile; }

// Consecutive tiles: [begin, end).
struct Tiles {
  int64_t begin, end;
};

// A row is worked on in pieces of this many classes, by one thread or by several. The loss is the sum of the pieces'
// sums in their order, so it does not depend on the number of threads.
constexpr int64_t kPiece = 1 << 15;
static_assert(kPiece % kTile == 0, "pieces are made of tiles");

inline int64_t NumPieces(int64_t classes) { return (classes + kPiece - 1) / kPiece; }

inline Tiles Piece(int64_t classes, int64_t piece) {
  constexpr int64_t kTiles = kPiece / kTile;
  return {piece * kTiles, std::min((piece + 1) * kTiles, NumTiles(classes))};
}

// Values of four bytes that begin at a cache line, so that no vector of them lies across two.
template <class Value>
class Aligned {
 public:
  void Assign(int64_t count, Value value) {
    lines_.resize((count + kLine - 1) / kLine);
    std::fill_n(data(), count, value);
  }
  Value *data() { return reinterpret_cast<Value *>(lines_.data()); }
  const Value *data() const { return reinterpret_cast<const Value *>(lines_.data()); }

 private:
  static constexpr int64_t kLine = 16;
  struct alignas(kLine * sizeof(Value)) Line {
    Value values[kLine];
  };
  std::vector<Line> lines_;
};

// How the hinges and the ranks of the scores are found.
enum class Method { kDirect, kSegments, kBuckets };

// A bucket: how many thresholds are less than all of it, and its own. row_buckets.h
struct alignas(16) Bucket {
  int32_t first;
  float thresholds[3];
};

// The sum of the hinges for a rank: slope * (score - anchor) + start.
struct alignas(16) Line {
  float slope, anchor, start, unused;
};

// The table of row_direct.h.
struct DirectTable {
  Aligned<float> lines;  // through anchors
};

// The tree that finds a score's segment.
struct SegmentTree {
  int levels = 0;
  Aligned<float> bounds;
};

// The tables of row_segments.h, for each segment.
struct SegmentTable {
  int64_t segment_size = 1;             // in sorted thresholds
  Aligned<float> slope, anchor, start;  // the line of the thresholds that are less than all of the segment
  Aligned<int32_t> first;               // how many these are
  Aligned<float> steps;                 // the thresholds in the segment
  Aligned<float> lines;                 // by how much each of these raises the line
};

// The tables of row_buckets.h.
struct BucketTable {
  Aligned<float> origin, factor;  // of each segment: how its scores are spread over its buckets
  Aligned<int32_t> first_bucket;  // of each segment
  int64_t count = 0;              // the number of buckets of a segment
  std::vector<Bucket> all;        // the buckets
  std::vector<Line> line_of;      // each rank
};

// A row's targets, prepared for looking up any score: filled once, then only read.
//
// Each target has a threshold q (definition.h). Of the sorted thresholds, let k be less than a score x: its rank. The
// class with that score adds to the row's loss
//   sum over these k thresholds of x - q = k * (x - anchor) + start, for the greatest of the k as the anchor.
// No term of it is negative: nothing cancels.
struct Row {
  int64_t index = 0;               // in the batch
  double scale = 0;                // the gradient of one active pair
  std::vector<int32_t> targets;    // y[0..T), as classes of the input: not all need be in it
  int target_flags = 0;            // what in their scores is not finite
  std::vector<float> thresholds;   // of each target, padded by +inf
  float least = 0;                 // of the thresholds
  std::vector<int64_t> by_tile;    // the positions in targets of those that are in the input, ordered by their tile
  std::vector<int64_t> tile_ends;  // where each tile's targets end in by_tile
  float masked_score = 0;          // a score below every threshold, which replaces targets and padding
  Method method = Method::kDirect;
  Aligned<float> sorted;                  // the thresholds, sorted, padded by +inf
  int64_t sorted_count = 0;               // without the padding
  std::vector<int32_t> ranks;             // of each threshold, as of a score, padded
  std::vector<int32_t> thresholds_below;  // for each rank among different thresholds: how many it makes with all
  DirectTable direct;                     // of the method in use
  SegmentTree tree;                       // of the methods of segments and of buckets
  SegmentTable segments;
  BucketTable buckets;
  std::vector<uint32_t> keys, moved;  // scratch for sorting
  std::vector<float> value;           // [k], the gradient of a class that is active with k targets
  bool computes_value = false;        // whether arithmetic in float32 gives just these
};

// What is found out about the targets' gradients on the way: the number of classes of rank k > 0 (or, with the direct
// method, active with target k) is the sum of the 2^log2_ways counts from k * 2^log2_ways on.
struct Counts {
  int log2_ways = 0;
  std::vector<uint32_t> counts;
};

// The steps of one row, for one dtype and one instruction set.
struct RowKernels {
  // Copies numbers of this dtype to float32, and back, each rounded once.
  void (*load)(const void *from, int64_t count, float *to);
  void (*store)(const float *from, int64_t count, void *to);

  // Reads the targets of row `index`. Throws if one is out of range.
  void (*prepare_loss)(const Batch &batch, int64_t index, Row *row);
  // The sum of the hinges of the tiles' classes, and what in it is not finite.
  PartialSum (*sum_tiles)(const Batch &batch, const Row &row, Tiles tiles);
  // The sum of the hinges of the tiles' classes, given what sum_tiles found in all parts of them.
  double (*finish_sum)(const Batch &batch, const Row &row, Tiles tiles, PartialSum sum);

  // The same for the gradient, whose active pairs weigh `scale`.
  void (*prepare_gradient)(const Batch &batch, int64_t index, double scale, Row *row);
  // Makes room for the row's counts, and sets them to 0.
  void (*start_counts)(const Batch &batch, const Row &row, Counts *counts);
  // Writes the gradient of the tiles' classes, 0 for targets, and counts; only counts if `gradient` is null. Returns
  // whether a score is NaN.
  bool (*gradient_of_tiles)(const Batch &batch, const Row &row, Tiles tiles, Counts *counts, void *gradient);
  // The same, but writes how many targets each class is active with, from the first class of the tiles on. No row may
  // have more than 65 535 targets.
  bool (*active_targets)(const Batch &batch, const Row &row, Tiles tiles, Counts *counts, uint16_t *active);
  // For each target, the number of classes that it is active with.
  std::vector<int64_t> (*active_classes)(const Row &row, const Counts &counts);
  // Writes the gradient of the tiles' targets, given these numbers, or of all of the tiles' classes if the row has a
  // NaN.
  void (*finish_gradient)(const Batch &batch, const Row &row, Tiles tiles, bool has_nan, const int64_t *active,
                          void *gradient);
};

// The kernels for the instruction set in use.
const RowKernels &SelectRowKernels(Dtype dtype);

}  // namespace mlml
