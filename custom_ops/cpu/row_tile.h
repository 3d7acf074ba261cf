// A tile of scores, as the inner loops see it: without targets, and in whole groups of vectors.
//
// Where a tile has targets or a remainder, it is copied, and scores that are active with nothing stand in for them:
// the inner loops know neither.
#pragma once

#include <algorithm>

#include "row_targets.h"

namespace mlml {
namespace MLML_ISA {
namespace {

constexpr int64_t kGroup = 8 * kLanes;  // tiles are padded to whole groups
static_assert(kTile % kGroup == 0, "tiles are made of groups");

// Loads a tile of scores, pads it to whole groups, and takes the targets out. False if a score is not finite, also one
// of a target.
template <class T>
bool LoadTile(const T *input, int64_t classes, const Row &row, int64_t tile, float *scores) {
  const int64_t begin = tile * kTile;
  const int64_t count = std::min(kTile, classes - begin);
  Floats check = {};  // 0, or NaN once a score is infinite or NaN
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Floats score = Load(input + begin + i);
    check += score * 0.0f;
    Store(scores + i, Max(score, Fill(row.absent)));
  }
  float sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += check[lane];
  for (; i < count; ++i) {
    const float score = ToFloat(input[begin + i]);
    sum += score * 0.0f;
    scores[i] = std::max(row.absent, score);
  }
  for (; i % kGroup != 0; ++i) scores[i] = row.absent;
  for (int64_t j = TileBegin(row, tile); j < row.tile_ends[tile]; ++j) {
    scores[row.targets[row.by_tile[j]] - begin] = row.absent;
  }
  return sum == 0;
}

template <class T>
void StoreTile(const float *values, int64_t count, T *to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(to + i, Load(values + i));
  for (; i < count; ++i) to[i] = FromDouble<T>(values[i]);
}

// A tile of scores, without targets and in whole groups, as the inner loops see it.
template <class Source>
struct Tile {
  const Source *scores;
  int64_t count;
  const char *next;        // the scores of the next tile in memory,
  const char *output;      // the memory that is written when this tile is done, if any,
  int64_t size_in_memory;  // and the bytes that one score takes there

  // Loads the group at i, and fetches into the cache what will be needed at i.
  template <int kVectors>
  MLML_INLINE void LoadGroup(int64_t i, Floats (&group)[kVectors]) const {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      group[v] = Load(scores + i + v * kLanes);
      __builtin_prefetch(next + (i + v * kLanes) * size_in_memory);
      if (output != nullptr) __builtin_prefetch(output + (i + v * kLanes) * size_in_memory, 1);
    }
  }
};

// Calls use(tile) with a tile of the row: as it lies in memory where it can, otherwise, or if told to, a copy in
// which nothing is less than row.absent. False if the copy shows a score that is not finite.
template <class T, class Use>
bool WithTile(const T *input, int64_t classes, const Row &row, int64_t tile, const T *output, bool copy, Use use) {
  const T *scores = input + tile * kTile;
  const int64_t count = std::min(kTile, classes - tile * kTile);
  const char *next = reinterpret_cast<const char *>(scores + kTile);
  const char *written = output == nullptr ? nullptr : reinterpret_cast<const char *>(output + tile * kTile);
  if (!copy && count % kGroup == 0 && TileBegin(row, tile) == row.tile_ends[tile]) {
    use(Tile<T>{scores, count, next, written, sizeof(T)});
    return true;
  }
  float copied[kTile];
  const bool finite = LoadTile(input, classes, row, tile, copied);
  use(Tile<float>{copied, (count + kGroup - 1) / kGroup * kGroup, next, written, sizeof(T)});
  return finite;
}

// 0 in every lane as long as only finite scores were added.
class FiniteCheck {
 public:
  template <int kVectors>
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

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
