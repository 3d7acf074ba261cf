// A row's targets: read, checked, grouped by the tile of classes that they are in, and turned into thresholds.
//
// Targets that are grouped by tile are found without a search when the tile's turn comes.
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

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();

// Where a tile's targets begin in row.by_tile.
int64_t TileBegin(const Row &row, int64_t tile) { return tile == 0 ? 0 : row.tile_ends[tile - 1]; }

// Where the scores of a class and of those behind it lie.
template <class T>
const T *ScoresFrom(const Batch &batch, const Row &row, int64_t i) {
  return static_cast<const T *>(batch.scores.data) + (row.index * batch.scores.stride + i - batch.scores.origin);
}

// The same for gradients, whose layout is that of the scores.
template <class T>
T *GradientFrom(const Batch &batch, const Row &row, int64_t i, void *gradient) {
  return static_cast<T *>(gradient) + (row.index * batch.scores.stride + i - batch.scores.origin);
}

template <class T>
float TargetScore(const Batch &batch, const Row &row, int64_t j) {
  if (batch.labels.scores != nullptr) return batch.labels.scores[row.index * batch.labels.num_labels + j];
  return ToFloat(*ScoresFrom<T>(batch, row, row.targets[j]));
}

void ReadTargets(const Batch &batch, int64_t index, Row *row) {
  const int32_t *labels = batch.labels.data + index * batch.labels.num_labels;
  const auto last =
      static_cast<int32_t>(std::min<int64_t>(batch.labels.num_classes, std::numeric_limits<int32_t>::max()) - 1);
  const auto all_classes = [=](Ints vector) { return !AnyNegative((vector < 0) | (vector > last)); };
  int64_t count = 0;
  while (count + kLanes <= batch.labels.num_labels && all_classes(Load(labels + count))) count += kLanes;
  for (; count < batch.labels.num_labels && labels[count] >= 0; ++count) {
    if (labels[count] >= batch.labels.num_classes) FailTarget(batch.labels, index, count, labels[count]);
  }
  row->index = index;
  row->targets.assign(labels, labels + count);
  if (batch.scores.first_class == 0) return;
  for (int32_t &target : row->targets) target -= static_cast<int32_t>(batch.scores.first_class);
}

void GroupByTile(const Batch &batch, Row *row) {
  const auto count = static_cast<int64_t>(row->targets.size());
  row->by_tile.resize(count);
  if (batch.scores.classes == batch.labels.num_classes && batch.scores.classes <= kTile) {
    row->tile_ends.assign(1, count);
    std::iota(row->by_tile.begin(), row->by_tile.end(), 0);
    return;
  }
  row->tile_ends.assign(NumTiles(batch.scores.classes), 0);
  const auto is_in_input = [&](int32_t target) { return target >= 0 && target < batch.scores.classes; };
  for (int32_t target : row->targets) {
    if (is_in_input(target)) ++row->tile_ends[target / kTile];
  }
  int64_t begin = 0;
  for (int64_t &end : row->tile_ends) begin += std::exchange(end, begin);
  for (int64_t j = 0; j < count; ++j) {
    const int32_t target = row->targets[j];
    if (is_in_input(target)) row->by_tile[row->tile_ends[target / kTile]++] = j;
  }
}

// The thresholds of target scores, of which score_of(j) gives the one of target j.
template <class T, class ScoreOf>
void ComputeThresholds(ScoreOf score_of, Row *row) {
  constexpr int64_t kPadding = 8 * kLanes;  // a whole number of groups
  const auto count = static_cast<int64_t>(row->targets.size());
  row->thresholds.resize((count + kPadding - 1) / kPadding * kPadding);
  Floats least = Set(kInfinity), check = {};
  for (int64_t begin = 0; begin < count; begin += kPadding) {
    // Of many scores at a time: a vector of those that were just stored one by one would have to wait for them.
    T scores[kPadding];
    const int64_t number = std::min(kPadding, count - begin);
    for (int64_t i = 0; i < number; ++i) scores[i] = score_of(begin + i);
    for (int64_t i = number; i % kLanes != 0; ++i) scores[i] = scores[0];
    for (int64_t i = 0; i < number; i += kLanes) {
      const Floats score = Load(scores + i), threshold = Threshold(score);
      const Floats sortable = threshold == threshold ? threshold : Set(kInfinity);  // as SortableThreshold
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
    for (int64_t j = 0; j < count; ++j) row->target_flags |= FlagsOfTarget(ToFloat(score_of(j)));
  }
  row->masked_score = row->least == -kInfinity ? -kInfinity : kLowest;
}

// Reads the row's targets. False if there are none.
template <class T>
bool PrepareTargets(const Batch &batch, int64_t index, Row *row) {
  ReadTargets(batch, index, row);
  if (row->targets.empty()) return false;
  GroupByTile(batch, row);
  if (batch.labels.scores != nullptr) {
    const float *scores = batch.labels.scores + index * batch.labels.num_labels;
    ComputeThresholds<float>([=](int64_t j) { return scores[j]; }, row);
  } else {
    const T *scores = ScoresFrom<T>(batch, *row, 0);
    ComputeThresholds<T>([=](int64_t j) { return scores[row->targets[j]]; }, row);
  }
  return true;
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
