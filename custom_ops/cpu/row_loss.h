// The loss of a row: the sum of its hinges, piece by piece.
//
// As long as there are few pairs of a target and a class, the hinges are computed one by one. Beyond, a score's rank
// says which hinges are active, and their sum is a line in the score: two small tables instead of a loop over the
// targets.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "row_search.h"

namespace mlml {
namespace MLML_ISA {
namespace {

// How many vectors the inner loops work on side by side: the steps of one wait for each other, those of several do not.
constexpr int kSumVectors = 8;

// Of the k thresholds below a score, the base is the one that is first in the search tree to be below it: it has the
// place of k's leading bit, so the exponent of k as a float finds it in a table that fits every k. Fewer thresholds are
// above the base than not, so that k * (x - base) + rest[k] cancels by less than a factor of two.
uint32_t ExponentField(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits >> 23;
}

template <class T>
void PrepareLoss(const Batch &batch, int64_t index, Row *row) {
  Prepare<T>(batch, index, 0, row);
  if (row->targets.empty()) return;
  row->rest.assign(row->leaf << row->levels, 0);
  row->base.assign(kBases, 0);
  const float *sorted = row->sorted.data();
  const bool by_rank = row->leaf == 1 && row->levels <= kBaseLevels;
  double sum = 0;  // of the k least thresholds
  float base = 0;
  for (size_t k = 1; k <= row->targets.size(); ++k) {
    sum += sorted[k - 1];
    if ((k & (k - 1)) == 0) base = sorted[k - 1];
    row->base[by_rank ? k : ExponentField(static_cast<float>(k)) % kBases] = base;
    row->rest[k] = static_cast<float>(static_cast<double>(k) * base - sum);
  }
}

// Each term of the loss is rounded to float32, as documented, and added in double.
template <class Source>
void SumTerms(const Tile<Source> &tile, const Row &row, DoubleSum *sum, FiniteCheck *check) {
  for (int64_t i = 0; i < tile.count; i += kSumVectors * kLanes) {
    Floats scores[kSumVectors];
    tile.LoadGroup(i, scores);
    check->Add(scores);
    for (size_t j = 0; j < row.targets.size(); ++j) {
      const Floats threshold = Fill(row.thresholds[j]);
#pragma GCC unroll 8
      for (int v = 0; v < kSumVectors; ++v) sum->Add(Max(scores[v] - threshold, Floats{}));
    }
  }
}

// Adds up what the classes of a group add to the loss. A score that is infinite or NaN makes the sum infinite or NaN.
struct AddHinges {
  Table<kBases> base;
  DoubleSum total;

  template <bool kByRank>
  MLML_INLINE void operator()(int64_t, const Floats (&scores)[kSumVectors], const Ints (&ranks)[kSumVectors],
                              const Floats (&rest)[kSumVectors], std::bool_constant<kByRank>) {
    Floats hinges[kSumVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kSumVectors; ++v) {
      const Floats rank = ToFloats(ranks[v]);
      const Ints place = kByRank ? ranks[v] : Exponents(rank);
      hinges[v] = rank * (scores[v] - base.Modulo(place)) + rest[v];
    }
#pragma GCC unroll 8
    for (int stride = kSumVectors / 2; stride > 0; stride /= 2) {
#pragma GCC unroll 8
      for (int v = 0; v < stride; ++v) hinges[v] += hinges[v + stride];
    }
    total.Add(hinges[0]);
  }
};

template <class Source>
void SumRanked(const Tile<Source> &tile, const Row &row, DoubleSum *sum) {
  AddHinges add{Table<kBases>(row.base.data()), *sum};
  Search<kSumVectors>(tile, row, row.rest.data(), add);
  *sum = add.total;
}

// The sum of one piece's hinges, and whether everything in it is finite. With `clamp`, classes whose score is -inf add
// nothing.
template <class T>
double SumScores(const Batch &batch, const Row &row, int64_t piece, bool clamp, bool *finite) {
  const T *input = static_cast<const T *>(batch.input) + row.index * batch.classes;
  const bool few = HasFewPairs(static_cast<int64_t>(row.targets.size()), batch.classes);
  DoubleSum sum;
  FiniteCheck check;
  bool copies_finite = true;
  for (int64_t tile = piece * kTilesPerPiece; tile < PieceEnd(batch.classes, piece); ++tile) {
    copies_finite &= WithTile<T>(input, batch.classes, row, tile, nullptr, clamp, [&](const auto &scores) {
      few ? SumTerms(scores, row, &sum, &check) : SumRanked(scores, row, &sum);
    });
  }
  const double total = sum.Total();
  *finite = copies_finite && check.Finite() && std::isfinite(total);
  return total;
}

template <class T>
int FindFlags(const Batch &batch, const Row &row, int64_t piece) {
  const T *input = static_cast<const T *>(batch.input) + row.index * batch.classes;
  int flags = 0;
  for (int64_t tile = piece * kTilesPerPiece; tile < PieceEnd(batch.classes, piece); ++tile) {
    const int64_t begin = tile * kTile;
    bool is_target[kTile] = {};
    for (int64_t j = TileBegin(row, tile); j < row.tile_ends[tile]; ++j) {
      is_target[row.targets[row.by_tile[j]] - begin] = true;
    }
    for (int64_t i = begin; i < std::min(begin + kTile, batch.classes); ++i) {
      if (!is_target[i - begin]) flags |= FlagsOfOther(ToFloat(input[i]));
    }
  }
  for (int32_t target : row.targets) flags |= FlagsOfTarget(ToFloat(input[target]));
  return flags;
}

template <class T>
PartialSum SumPiece(const Batch &batch, const Row &row, int64_t piece) {
  if (row.targets.empty()) return {0, 0};
  bool finite;
  const double sum = SumScores<T>(batch, row, piece, false, &finite);
  if (finite) return {sum, 0};
  const int flags = FindFlags<T>(batch, row, piece);
  if (DecideSum(flags)) return {0, flags};
  return {SumScores<T>(batch, row, piece, true, &finite), flags};  // finite scores, and masked classes
}

// The row's sum from its formula in double: for scores so large that float32 overflows on the way.
template <class T>
double SumInDouble(const T *input, int64_t classes, const Row &row) {
  double sum = 0;
  for (int64_t tile = 0; tile < Tiles(classes); ++tile) {
    float scores[kTile];
    LoadTile(input, classes, row, tile, scores);
    const int64_t count = std::min(kTile, classes - tile * kTile);
    for (int32_t target : row.targets) {
      const double margin = 1.0 - ToFloat(input[target]);
      for (int64_t i = 0; i < count; ++i) sum += std::max(0.0, margin + scores[i]);
    }
  }
  return sum;
}

template <class T>
double Loss(const Batch &batch, const Row &row, PartialSum sum) {
  if (!std::isfinite(sum.sum) && !DecideSum(sum.flags)) {
    const T *input = static_cast<const T *>(batch.input) + row.index * batch.classes;
    sum.sum = SumInDouble(input, batch.classes, row);
  }
  return RowSum(sum) / static_cast<double>(batch.classes);
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
