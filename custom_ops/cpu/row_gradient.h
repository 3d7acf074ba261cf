// The gradient of a row: for each class its number of active targets, for each target its number of active classes.
//
// The gradient of a class that is no target is scale * k, where k is its rank: how many thresholds its score exceeds.
// The gradient of a target is -scale * (the number of classes whose rank exceeds the target's own rank).
// Example, thresholds t0 < t1 < t2 and scores of ranks 0, 2, 3, 2: their gradients are scale * (0, 2, 3, 2); the
// histogram of the ranks is 1 0 2 1, so t0 (rank 0) is active with 3 classes, t1 (rank 1) with 3, and t2 (rank 2)
// with 1.
//
// Invariant: both are whole numbers, counted exactly, and multiplied by the scale once: the result is rounded once.
// Cost: one search for each score, as for the loss, and one increment of the histogram for each active score.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "row_method.h"

namespace mlml {
namespace MLML_ISA {
namespace {

// The gradients of classes, given their numbers of active targets, by arithmetic in float32: the scale is a sum of two.
class GradientOfRank {
 public:
  // Both have the scale's sign, and so has a gradient of 0.
  explicit GradientOfRank(double scale) {
    auto high = static_cast<float>(scale);
    if (std::fabs(high) > std::fabs(scale)) high = std::nextafter(high, 0.0f);
    high_ = Set(high);
    low_ = Set(std::copysign(static_cast<float>(scale - high), high));
  }

  MLML_INLINE Floats operator()(Ints rank) const {
    const Floats count = ToFloats(rank);
    return MulAdd(count, high_, count * low_);
  }

 private:
  Floats high_, low_;
};

// Whether that gives row.value, which is rounded once, for all ranks: hardly ever it does not.
template <class T>
bool ComputesValue(const Row &row) {
  const GradientOfRank gradient(row.scale);
  Ints ranks;
  for (int lane = 0; lane < kLanes; ++lane) ranks[lane] = lane;
  const auto count = static_cast<int64_t>(row.targets.size()) + 1;
  for (int64_t k = 0; k < count; k += kLanes, ranks += kLanes) {
    T rounded[kLanes];
    Store(rounded, gradient(ranks));
    float computed[kLanes];
    Store(computed, Load(rounded));
    const auto lanes = static_cast<size_t>(std::min<int64_t>(kLanes, count - k));
    if (std::memcmp(computed, &row.value[k], lanes * sizeof(float)) != 0) return false;
  }
  return true;
}

template <class T>
void PrepareGradient(const Batch &batch, int64_t index, double scale, Row *row) {
  if (!PrepareTargets<T>(batch, index, row)) return;
  row->scale = scale;
  const auto count = static_cast<int64_t>(row->targets.size());
  PrepareRanks(batch.scores.classes, row);
  const bool merged = row->method == Method::kBuckets;
  const int64_t ranks = (merged ? row->sorted_count : count) + 1;
  row->value.resize((ranks + kLanes - 1) / kLanes * kLanes);
  for (int64_t k = 0; k < ranks; k += kLanes) {  // rounded one by one, made float32 again by vectors
    T rounded[kLanes] = {};
    for (int64_t i = 0; i < std::min<int64_t>(kLanes, ranks - k); ++i) {
      rounded[i] = FromDouble<T>(static_cast<double>(merged ? row->thresholds_below[k + i] : k + i) * scale);
    }
    Store(&row->value[k], Load(rounded));
  }
  row->computes_value = !merged && ComputesValue<T>(*row);
}

constexpr int kLog2Lanes = kLanes == 16 ? 4 : kLanes == 8 ? 3 : 2;

void StartCounts(const Batch &batch, const Row &row, Counts *counts) {
  // Counting apart per lane keeps increments of the same counter from waiting for each other. With many ranks they are
  // rarely the same, and the cache matters more; with few classes, making room does.
  const auto ranks = static_cast<int64_t>(row.targets.size()) + 1;
  const bool apart = ranks <= 1024 && ranks * 8 <= batch.scores.classes;
  counts->log2_ways = row.method == Method::kDirect ? kLog2Lanes : apart ? 3 : 0;
  counts->counts.assign(ranks << counts->log2_ways, 0);
}

// 0 in every lane as long as only finite scores were added.
class FiniteCheck {
 public:
  MLML_INLINE void Add(const Floats (&group)[kVectors]) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) check_[v % 2] += group[v] * 0.0f;
  }
  bool Finite() const {
    const Floats check = check_[0] + check_[1];
    float sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) sum += check[lane];
    return sum == 0;
  }

 private:
  Floats check_[2] = {};
};

// Counts how often each rank is among those of a tile.
void CountRanks(const int32_t *ranks, int64_t number, Counts *counts) {
  uint32_t *count = counts->counts.data();
  const int log2_ways = counts->log2_ways, ways = 1 << log2_ways;
  for (int64_t i = 0; i < number; i += 8) {
    for (int lane = 0; lane < 8; ++lane) ++count[(ranks[i + lane] << log2_ways) + (lane & (ways - 1))];
  }
}

// What is written for each class of a row: its gradient.
template <class T>
class Gradients {
 public:
  using Value = T;

  explicit Gradients(const Row &row) : row_(row), gradient_of_(row.scale) {}

  // Writes a group's values, whose ranks are given, in registers and in memory.
  MLML_INLINE void Write(const Ints (&ranks)[kVectors], const int32_t *ranks_in_memory, T *to) const {
    if (row_.computes_value) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) Store(to + v * kLanes, gradient_of_(ranks[v]));
      return;
    }
    float values[kGroup];
    for (int64_t c = 0; c < kGroup; ++c) values[c] = row_.value[ranks_in_memory[c]];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Store(to + v * kLanes, Load(values + v * kLanes));
  }

  // Writes the values of a group in which no class is active.
  MLML_INLINE void WriteInactive(T *to) const {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Store(to + v * kLanes, Set(row_.value[0]));
  }

 private:
  const Row &row_;
  GradientOfRank gradient_of_;
};

// What is written for each class of a row: the number of targets that it is active with.
class ActiveTargets {
 public:
  using Value = uint16_t;

  // With buckets, a rank is that among the thresholds that differ.
  explicit ActiveTargets(const Row &row)
      : num_below_(row.method == Method::kBuckets ? row.thresholds_below.data() : nullptr) {}

  MLML_INLINE void Write(const Ints (&ranks)[kVectors], const int32_t *ranks_in_memory, uint16_t *to) const {
    if (num_below_ != nullptr) {
      for (int64_t c = 0; c < kGroup; ++c) to[c] = static_cast<uint16_t>(num_below_[ranks_in_memory[c]]);
      return;
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) StoreNarrowed(to + v * kLanes, ranks[v]);
  }

  MLML_INLINE void WriteInactive(uint16_t *to) const { std::memset(to, 0, kGroup * sizeof(*to)); }

 private:
  const int32_t *num_below_;
};

// Writes what Output makes of the tiles' classes, unless `output` is null, and counts their ranks.
template <class T, class Output, class RankMethod>
void WriteClasses(const Batch &batch, const Row &row, Tiles tiles, const RankMethod method, Counts *counts,
                  FiniteCheck *check, typename Output::Value *output) {
  using Value = typename Output::Value;
  const Output writer(row);
  FiniteCheck finite;
  Compacted compacted;
  int32_t ranks_of[kTile + 2 * kGroup];
  int64_t number = 0;  // of the ranks that are not counted yet
  const auto write = [&](const Floats(&scores)[kVectors], Value *to) MLML_INLINE_LAMBDA {
    Ints ranks[kVectors];
    finite.Add(scores);
    method.Ranks(scores, ranks, counts->counts.data());
    int32_t *group = ranks_of + number;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Store(group + v * kLanes, ranks[v]);
    writer.Write(ranks, group, to);
    if (!RankMethod::kCountsTargets) number += kGroup;
  };
  const auto write_compacted = [&](bool last) MLML_INLINE_LAMBDA {
    TakeCompacted(row, last, &compacted,
                  [&](const Floats(&scores)[kVectors], const int32_t *places, int64_t count) MLML_INLINE_LAMBDA {
                    Value values[kGroup];
                    write(scores, values);
                    if (output == nullptr) return;
                    for (int64_t c = 0; c < count; ++c) output[places[c]] = values[c];
                  });
  };
  for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
    const int64_t count = std::min(kTile, batch.scores.classes - tile * kTile), place = (tile - tiles.begin) * kTile;
    Value padded[kTile];
    Value *to = output != nullptr && count % kGroup == 0 ? output + place : padded;
    WithTile(ScoresFrom<T>(batch, row, tile * kTile), batch.scores.classes, row, tile, false, [&](const auto &scores) {
      TakeOrCompact<RankMethod::kCompacts>(
          scores, row, place, &compacted,
          [&](int64_t i, const Floats(&group)[kVectors]) MLML_INLINE_LAMBDA { write(group, to + i); },
          [&](int64_t i) MLML_INLINE_LAMBDA { writer.WriteInactive(to + i); });
    });
    if (output != nullptr && to == padded) std::copy_n(padded, count, output + place);
    if (RankMethod::kCompacts) write_compacted(tile + 1 == tiles.end);
    CountRanks(ranks_of, number, counts);
    number = 0;
  }
  *check = finite;
}

template <class T, class Output>
bool WriteTiles(const Batch &batch, const Row &row, Tiles tiles, Counts *counts, typename Output::Value *output) {
  const int64_t begin = tiles.begin * kTile, count = std::min(tiles.end * kTile, batch.scores.classes) - begin;
  if (row.targets.empty()) {
    if (output != nullptr) std::memset(output, 0, count * sizeof(*output));
    return false;
  }
  FiniteCheck check;
  WithRanks(row,
            [&](const auto method) { WriteClasses<T, Output>(batch, row, tiles, method, counts, &check, output); });
  if ((row.target_flags & kNan) != 0) return true;
  const T *scores = ScoresFrom<T>(batch, row, begin);
  return !check.Finite() && std::any_of(scores, scores + count, [](T score) { return std::isnan(ToFloat(score)); });
}

template <class T>
bool GradientOfTiles(const Batch &batch, const Row &row, Tiles tiles, Counts *counts, void *gradient) {
  T *output = gradient == nullptr ? nullptr : GradientFrom<T>(batch, row, tiles.begin * kTile, gradient);
  return WriteTiles<T, Gradients<T>>(batch, row, tiles, counts, output);
}

template <class T>
bool ActiveTargetsOfTiles(const Batch &batch, const Row &row, Tiles tiles, Counts *counts, uint16_t *active) {
  return WriteTiles<T, ActiveTargets>(batch, row, tiles, counts, active);
}

std::vector<int64_t> ActiveClasses(const Row &row, const Counts &counts) {
  const size_t ranks = row.targets.size() + 1;
  std::vector<int64_t> totals(ranks + 1);
  for (size_t k = 0; k < ranks; ++k) {
    const uint32_t *of_rank = &counts.counts[k << counts.log2_ways];
    for (int way = 0; way < 1 << counts.log2_ways; ++way) totals[k] += of_rank[way];
  }
  if (row.method == Method::kDirect) return totals;
  for (size_t k = ranks; k-- > 0;) totals[k] += totals[k + 1];
  std::vector<int64_t> active(row.targets.size());
  for (size_t j = 0; j < active.size(); ++j) active[j] = totals[row.ranks[j] + 1];
  return active;
}

template <class T>
void FinishGradient(const Batch &batch, const Row &row, Tiles tiles, bool has_nan, const int64_t *active,
                    void *gradient) {
  if (row.targets.empty()) return;
  const int64_t first = tiles.begin * kTile;
  T *output = GradientFrom<T>(batch, row, first, gradient);
  if (has_nan) {
    std::fill_n(output, std::min(tiles.end * kTile, batch.scores.classes) - first, FromDouble<T>(NAN));
    return;
  }
  int64_t total[kTile] = {};  // per class of a tile: a class may be a target more than once
  for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
    const int64_t *begin = row.by_tile.data() + TileBegin(row, tile);
    const int64_t *end = row.by_tile.data() + row.tile_ends[tile];
    for (const int64_t *j = begin; j < end; ++j) {
      const int32_t target = row.targets[*j];
      const int64_t sum = total[target % kTile] -= active[*j];  // whole when the last of its targets is taken
      output[target - first] = FromDouble<T>(static_cast<double>(sum) * row.scale);
    }
    for (const int64_t *j = begin; j < end; ++j) total[row.targets[*j] % kTile] = 0;
  }
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
