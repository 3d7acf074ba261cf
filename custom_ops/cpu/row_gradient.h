// The gradient of a row: each class's number of active targets, and each target's number of active classes.
//
// The first is the class's rank. The second is read off a histogram of the ranks: a target is active with the classes
// whose rank is greater than its own.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "row_search.h"

namespace mlml {
namespace MLML_ISA {
namespace {

// How many vectors the inner loops work on side by side.
constexpr int kGradientVectors = 4;

// Up to here the gradient compares each score with each threshold instead of searching.
constexpr int64_t kFewTargetsGradient = 8;

template <class T>
void PrepareGradient(const Batch &batch, int64_t index, double scale, Row *row) {
  Prepare<T>(batch, index, kFewTargetsGradient, row);
  row->scale = scale;
  const size_t ranks = row->targets.size() + 1;
  row->value.assign(std::max<size_t>(kFewTargetsGradient * 2, row->leaf << row->levels), 0);
  for (size_t k = 0; k < ranks; k += kLanes) {  // rounded one by one, made float32 again by vectors
    T rounded[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) rounded[lane] = FromDouble<T>(static_cast<double>(k + lane) * scale);
    Store(&row->value[k], Load(rounded));
  }
}

void StartCounts(const Row &row, Counts *counts) {
  // Counting apart per lane keeps increments of the same counter from waiting for each other. With many ranks they are
  // rarely the same, and the cache matters more.
  const size_t ranks = row.targets.size() + 1;
  counts->log2_ways = ranks <= 1024 ? 3 : 0;
  counts->counts.assign(ranks << counts->log2_ways, 0);
}

template <int kTargets = kFewTargetsGradient, class Source>
void GradientFew(const Tile<Source> &tile, const Row &row, Counts *counts, FiniteCheck *check, float *gradient) {
  if (static_cast<int>(row.targets.size()) < kTargets) {
    if constexpr (kTargets > 1) GradientFew<kTargets - 1>(tile, row, counts, check, gradient);
    return;
  }
  const Table<kFewTargetsGradient * 2> value(row.value.data());
  Floats thresholds[kTargets];
  LaneCounter active[kTargets];
  for (int j = 0; j < kTargets; ++j) thresholds[j] = Fill(row.thresholds[j]);
  FiniteCheck finite = *check;
  for (int64_t i = 0; i < tile.count; i += kGradientVectors * kLanes) {
    Floats scores[kGradientVectors];
    tile.LoadGroup(i, scores);
    finite.Add(scores);
#pragma GCC unroll 8
    for (int v = 0; v < kGradientVectors; ++v) {
      Ints targets = {};
      for (int j = 0; j < kTargets; ++j) {
        targets = CountGreater(targets, scores[v], thresholds[j]);
        active[j].AddGreater(scores[v], thresholds[j]);
      }
      Store(gradient + i + v * kLanes, value(targets));
    }
  }
  *check = finite;
  for (int j = 0; j < kTargets; ++j) counts->counts[j << counts->log2_ways] += active[j].Total();
}

// Writes the gradients of a group, and where the ranks are counted.
struct StoreGradients {
  float *gradient;
  int32_t *counters;
  int log2_ways;
  FiniteCheck check;

  template <class ByRank>
  MLML_INLINE void operator()(int64_t i, const Floats (&scores)[kGradientVectors],
                              const Ints (&ranks)[kGradientVectors], const Floats (&value)[kGradientVectors], ByRank) {
    check.Add(scores);
#pragma GCC unroll 8
    for (int v = 0; v < kGradientVectors; ++v) {
      Store(counters + i + v * kLanes, ranks[v] << log2_ways);
      Store(gradient + i + v * kLanes, value[v]);
    }
  }
};

template <class Source>
void GradientRanked(const Tile<Source> &tile, const Row &row, Counts *counts, FiniteCheck *check, float *gradient) {
  int32_t counters[kTile];
  StoreGradients store{gradient, counters, counts->log2_ways, *check};
  Search<kGradientVectors>(tile, row, row.value.data(), store);
  *check = store.check;
  uint32_t *count = counts->counts.data();
  const int ways = 1 << counts->log2_ways;
  for (int64_t i = 0; i < tile.count; i += 8) {
    for (int lane = 0; lane < 8; ++lane) ++count[counters[i + lane] + (lane & (ways - 1))];
  }
}

template <class T>
bool GradientPiece(const Batch &batch, const Row &row, int64_t piece, Counts *counts, void *gradient) {
  const T *input = static_cast<const T *>(batch.input) + row.index * batch.classes;
  T *output = static_cast<T *>(gradient) + row.index * batch.classes;
  FiniteCheck check;
  bool finite = true;
  for (int64_t tile = piece * kTilesPerPiece; tile < PieceEnd(batch.classes, piece); ++tile) {
    const int64_t count = std::min(kTile, batch.classes - tile * kTile);
    if (row.targets.empty()) {
      std::memset(output + tile * kTile, 0, count * sizeof(T));
      continue;
    }
    float values[kTile];
    finite &= WithTile<T>(input, batch.classes, row, tile, output, false, [&](const auto &scores) {
      row.levels == 0 ? GradientFew(scores, row, counts, &check, values)
                      : GradientRanked(scores, row, counts, &check, values);
    });
    StoreTile(values, count, output + tile * kTile);
  }
  if (row.targets.empty() || (finite && check.Finite())) return false;
  const T *end = input + std::min((piece + 1) * kPiece, batch.classes);
  return std::any_of(input + piece * kPiece, end, [](T score) { return std::isnan(ToFloat(score)); });
}

// For each target, the number of classes that it is active with.
std::vector<int64_t> ActiveClasses(const Row &row, const Counts &counts) {
  const size_t ranks = row.targets.size() + 1;
  std::vector<int64_t> totals(ranks + 1);
  for (size_t k = 0; k < ranks; ++k) {
    const uint32_t *of_rank = &counts.counts[k << counts.log2_ways];
    for (int way = 0; way < 1 << counts.log2_ways; ++way) totals[k] += of_rank[way];
  }
  if (row.levels == 0) return totals;
  for (size_t k = ranks; k-- > 0;) totals[k] += totals[k + 1];
  std::vector<int64_t> active(row.targets.size());
  for (size_t j = 0; j < active.size(); ++j) active[j] = totals[row.ranks[j] + 1];
  return active;
}

template <class T>
void FinishGradient(const Batch &batch, const Row &row, bool has_nan, const Counts &counts, void *gradient) {
  if (row.targets.empty()) return;
  T *output = static_cast<T *>(gradient) + row.index * batch.classes;
  if (has_nan) {
    std::fill_n(output, batch.classes, FromDouble<T>(NAN));
    return;
  }
  const std::vector<int64_t> active = ActiveClasses(row, counts);
  int64_t total[kTile] = {};  // per class of a tile: a class may be a target more than once
  for (int64_t tile = 0; tile < Tiles(batch.classes); ++tile) {
    const int64_t *begin = row.by_tile.data() + TileBegin(row, tile);
    const int64_t *end = row.by_tile.data() + row.tile_ends[tile];
    for (const int64_t *j = begin; j < end; ++j) total[row.targets[*j] % kTile] -= active[*j];
    for (const int64_t *j = begin; j < end; ++j) {
      const int32_t target = row.targets[*j];
      output[target] = FromDouble<T>(static_cast<double>(total[target % kTile]) * row.scale);
    }
    for (const int64_t *j = begin; j < end; ++j) total[row.targets[*j] % kTile] = 0;
  }
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
