// A row's targets: read, checked, grouped by the block of classes that they are in, and turned into thresholds.
//
// The classes are worked on in blocks that fit the first-level cache. Targets that are grouped by block are found
// without a search when the block's turn comes.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "row.h"
#include "simd.h"

namespace mlml {
namespace MLML_LEVEL {
namespace {

constexpr int64_t kBlock = 1024;
static_assert(kPiece % kBlock == 0, "pieces are made of blocks");

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Where a block's targets begin in row.by_block.
int64_t BlockBegin(const Row &row, int64_t block) { return block == 0 ? 0 : row.block_ends[block - 1]; }

int64_t Blocks(int64_t classes) { return (classes + kBlock - 1) / kBlock; }

constexpr int64_t kBlocksPerPiece = kPiece / kBlock;

// The block behind a piece's last.
int64_t PieceEnd(int64_t classes, int64_t piece) { return std::min((piece + 1) * kBlocksPerPiece, Blocks(classes)); }

void ReadTargets(const Batch &batch, int64_t index, Row *row) {
  const int32_t *labels = batch.target + index * batch.labels;
  int64_t count = 0;
  for (; count < batch.labels && labels[count] >= 0; ++count) {
    if (labels[count] >= batch.classes) FailTarget(batch, index, count, labels[count]);
  }
  row->index = index;
  row->targets.assign(labels, labels + count);
}

void GroupByBlock(int64_t classes, Row *row) {
  const auto count = static_cast<int64_t>(row->targets.size());
  row->by_block.resize(count);
  if (classes <= kBlock) {
    row->block_ends.assign(1, count);
    std::iota(row->by_block.begin(), row->by_block.end(), 0);
    return;
  }
  row->block_ends.assign(Blocks(classes), 0);
  for (int32_t target : row->targets) ++row->block_ends[target / kBlock];
  int64_t begin = 0;
  for (int64_t &end : row->block_ends) begin += std::exchange(end, begin);
  for (int64_t j = 0; j < count; ++j) row->by_block[row->block_ends[row->targets[j] / kBlock]++] = j;
}

template <class T>
void ComputeThresholds(const T *input, Row *row) {
  const size_t count = row->targets.size();
  row->thresholds.assign((count + kLanes - 1) / kLanes * kLanes, kInfinity);
  for (size_t j = 0; j < count; ++j) {
    const float score = ToFloat(input[row->targets[j]]);
    const float threshold = -(1.0f - score);
    // With a NaN the row's result is NaN anyway; it must only not disturb the sorting.
    if (threshold == threshold) row->thresholds[j] = threshold;
  }
}

}  // namespace
}  // namespace MLML_LEVEL
}  // namespace mlml
