// The loss of a row: the sum of its hinges, in parts.
//
// As long as there are few pairs of a target and a class, the hinges are rounded to float32 and added one by one.
// Beyond, those of a group are added in float32, and the groups in double.
#pragma once

#include <algorithm>
#include <cmath>

#include "row_method.h"

namespace mlml {
namespace MLML_ISA {
namespace {

template <class T>
void PrepareLoss(const Batch &batch, int64_t index, Row *row) {
  if (!PrepareTargets<T>(batch, index, row)) return;
  const auto count = static_cast<int64_t>(row->targets.size());
  if (HasFewPairs(count, batch.labels.num_classes)) return;
  PrepareHinges(batch.scores.classes, row);
}

// Each term of the loss is rounded to float32, as documented, and added in double.
template <class Source>
void SumTerms(const Tile<Source> &tile, const Row &row, DoubleSum *sum) {
  for (int64_t i = 0; i < tile.count; i += kGroup) {
    Floats scores[kVectors];
    LoadGroup(tile, i, scores);
    for (size_t j = 0; j < row.targets.size(); ++j) {
      const Floats threshold = Set(row.thresholds[j]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum->Add(Hinge(scores[v] - threshold));
    }
  }
}

// The sum of the hinges of tiles, if they are many. A score that is +inf or NaN makes it infinite or NaN; so may
// one of -inf.
template <class T, class HingeMethod>
void SumHinges(const Batch &batch, const Row &row, Tiles tiles, bool clamp, const HingeMethod method,
               DoubleSum *total) {
  DoubleSum sum;
  Compacted compacted;
  const auto add = [&](const Floats(&scores)[kVectors]) MLML_INLINE_LAMBDA {
    Floats hinges[kVectors];
    method.Hinges(scores, hinges);
#pragma GCC unroll 8
    for (int stride = kVectors / 2; stride > 0; stride /= 2) {
#pragma GCC unroll 8
      for (int v = 0; v < stride; ++v) hinges[v] += hinges[v + stride];
    }
    sum.Add(hinges[0]);
  };
  const auto add_compacted = [&](bool last) MLML_INLINE_LAMBDA {
    TakeCompacted(row, last, &compacted,
                  [&](const Floats(&scores)[kVectors], const int32_t *, int64_t) MLML_INLINE_LAMBDA { add(scores); });
  };
  for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
    WithTile(ScoresFrom<T>(batch, row, tile * kTile), batch.scores.classes, row, tile, clamp, [&](const auto &scores) {
      TakeOrCompact<HingeMethod::kCompacts>(
          scores, row, 0, &compacted, [&](int64_t, const Floats(&group)[kVectors]) MLML_INLINE_LAMBDA { add(group); },
          [](int64_t) {});
    });
    if (HingeMethod::kCompacts) add_compacted(tile + 1 == tiles.end);
  }
  *total = sum;
}

// The sum of the tiles' hinges. With `clamp`, classes whose score is -inf add nothing.
template <class T>
double SumScores(const Batch &batch, const Row &row, Tiles tiles, bool clamp) {
  DoubleSum sum;
  if (HasFewPairs(static_cast<int64_t>(row.targets.size()), batch.labels.num_classes)) {
    WithTile(ScoresFrom<T>(batch, row, 0), batch.scores.classes, row, 0, clamp,
             [&](const auto &scores) { SumTerms(scores, row, &sum); });
  } else {
    WithHinges(row, [&](const auto method) { SumHinges<T>(batch, row, tiles, clamp, method, &sum); });
  }
  return sum.Total();
}

template <class T>
int FindFlags(const Batch &batch, const Row &row, Tiles tiles) {
  int flags = 0;
  for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
    const int64_t begin = tile * kTile, count = std::min(kTile, batch.scores.classes - begin);
    const T *scores = ScoresFrom<T>(batch, row, begin);
    bool is_target[kTile] = {};
    for (int64_t j = TileBegin(row, tile); j < row.tile_ends[tile]; ++j) {
      is_target[row.targets[row.by_tile[j]] - begin] = true;
    }
    for (int64_t i = 0; i < count; ++i) {
      if (!is_target[i]) flags |= FlagsOfOther(ToFloat(scores[i]));
    }
  }
  return flags | row.target_flags;
}

template <class T>
PartialSum SumTiles(const Batch &batch, const Row &row, Tiles tiles) {
  if (row.targets.empty()) return {0, 0};
  const double sum = SumScores<T>(batch, row, tiles, false);
  if (row.target_flags == 0 && std::isfinite(sum)) return {sum, 0};
  const int flags = FindFlags<T>(batch, row, tiles);
  if (DecideSum(flags)) return {0, flags};
  return {SumScores<T>(batch, row, tiles, true), flags};  // finite scores, and masked classes
}

// The tiles' sum from its formula in double: for scores so large that float32 overflows on the way.
template <class T>
double SumInDouble(const Batch &batch, const Row &row, Tiles tiles) {
  double sum = 0;
  for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
    float scores[kTile];
    LoadTile(ScoresFrom<T>(batch, row, tile * kTile), batch.scores.classes, row, tile, scores);
    const int64_t count = std::min(kTile, batch.scores.classes - tile * kTile);
    for (size_t j = 0; j < row.targets.size(); ++j) {
      const double margin = 1.0 - TargetScore<T>(batch, row, static_cast<int64_t>(j));
      for (int64_t i = 0; i < count; ++i) sum += std::max(0.0, margin + scores[i]);
    }
  }
  return sum;
}

template <class T>
double FinishSum(const Batch &batch, const Row &row, Tiles tiles, PartialSum sum) {
  if (!std::isfinite(sum.sum) && !DecideSum(sum.flags)) sum.sum = SumInDouble<T>(batch, row, tiles);
  return RowSum(sum);
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
