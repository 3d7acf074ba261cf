// A row's targets: read, checked, grouped by the tile of classes that they are in, and turned into thresholds.
//
// The classes are worked on in tiles that fit the first-level cache. Targets that are grouped by tile are found
// without a search when the tile's turn comes.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "row.h"
#include "simd.h"

namespace mlml {
namespace MLML_ISA {
namespace {

constexpr int64_t kTile = 1024;
static_assert(kPiece % kTile == 0, "pieces are made of tiles");

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();

// Where a tile's targets begin in row.by_tile.
int64_t TileBegin(const Row &row, int64_t tile) { return tile == 0 ? 0 : row.tile_ends[tile - 1]; }

int64_t Tiles(int64_t classes) { return (classes + kTile - 1) / kTile; }

constexpr int64_t kTilesPerPiece = kPiece / kTile;

// The tile behind a piece's last.
int64_t PieceEnd(int64_t classes, int64_t piece) { return std::min((piece + 1) * kTilesPerPiece, Tiles(classes)); }

void ReadTargets(const Batch &batch, int64_t index, Row *row) {
  const int32_t *labels = batch.target + index * batch.num_labels;
  const auto last = static_cast<int32_t>(std::min<int64_t>(batch.classes, std::numeric_limits<int32_t>::max()) - 1);
  const auto all_classes = [=](Ints vector) { return !AnyNegative((vector < 0) | (vector > last)); };
  int64_t count = 0;
  while (count + kLanes <= batch.num_labels && all_classes(Load(labels + count))) count += kLanes;
  for (; count < batch.num_labels && labels[count] >= 0; ++count) {
    if (labels[count] >= batch.classes) FailTarget(batch, index, count, labels[count]);
  }
  row->index = index;
  row->targets.assign(labels, labels + count);
}

void GroupByTile(int64_t classes, Row *row) {
  const auto count = static_cast<int64_t>(row->targets.size());
  row->by_tile.resize(count);
  if (classes <= kTile) {
    row->tile_ends.assign(1, count);
    std::iota(row->by_tile.begin(), row->by_tile.end(), 0);
    return;
  }
  row->tile_ends.assign(Tiles(classes), 0);
  for (int32_t target : row->targets) ++row->tile_ends[target / kTile];
  int64_t begin = 0;
  for (int64_t &end : row->tile_ends) begin += std::exchange(end, begin);
  for (int64_t j = 0; j < count; ++j) row->by_tile[row->tile_ends[row->targets[j] / kTile]++] = j;
}

template <class T>
void ComputeThresholds(const T *input, Row *row) {
  constexpr int64_t kPadding = 8 * kLanes;  // a whole number of groups
  const auto count = static_cast<int64_t>(row->targets.size());
  row->thresholds.resize((count + kPadding - 1) / kPadding * kPadding);
  Floats least = Fill(kInfinity), check = {};
  for (int64_t begin = 0; begin < count; begin += kPadding) {
    // Of many scores at a time: a vector of those that were just stored one by one would have to wait for them.
    T scores[kPadding];
    const int64_t number = std::min(kPadding, count - begin);
    for (int64_t i = 0; i < number; ++i) scores[i] = input[row->targets[begin + i]];
    for (int64_t i = number; i % kLanes != 0; ++i) scores[i] = scores[0];
    for (int64_t i = 0; i < number; i += kLanes) {
      const Floats score = Load(scores + i), threshold = Threshold(score);
      const Floats sortable = threshold == threshold ? threshold : Fill(kInfinity);  // as SortableThreshold
      Store(&row->thresholds[begin + i], sortable);
      least = Min(least, sortable);
      check += score * 0.0f;
    }
  }
  std::fill(row->thresholds.begin() + count, row->thresholds.end(), kInfinity);
  row->least = kInfinity;
  row->target_flags = 0;
  bool finite = true;
  for (int lane = 0; lane < kLanes; ++lane) {
    row->least = std::min(row->least, least[lane]);
    finite = finite && check[lane] == 0;
  }
  if (!finite) {
    for (int32_t target : row->targets) row->target_flags |= FlagsOfTarget(ToFloat(input[target]));
  }
  row->absent = row->least == -kInfinity ? -kInfinity : kLowest;
}

// Reads the row's targets. False if there are none.
template <class T>
bool PrepareTargets(const Batch &batch, int64_t index, Row *row) {
  ReadTargets(batch, index, row);
  if (row->targets.empty()) return false;
  GroupByTile(batch.classes, row);
  ComputeThresholds(static_cast<const T *>(batch.input) + index * batch.classes, row);
  return true;
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
