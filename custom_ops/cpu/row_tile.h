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

// How many vectors the inner loops work on side by side: the steps of one wait for each other, those of several do not.
// On NEON, with more, the tables would leave no registers for them.
#if defined(MLML_NEON)
constexpr int kVectors = 4;
#else
constexpr int kVectors = 8;
#endif
constexpr int64_t kGroup = kVectors * kLanes;  // tiles are padded to whole groups
static_assert(kTile % kGroup == 0, "tiles are made of groups");

// Loads a tile of scores, pads it to whole groups, and takes the targets out. Nothing in it is less than row.absent;
// NaN stays NaN.
template <class T>
void LoadTile(const T *input, int64_t classes, const Row &row, int64_t tile, float *scores) {
  const int64_t begin = tile * kTile;
  const int64_t count = std::min(kTile, classes - begin);
  const Floats absent = Fill(row.absent);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(scores + i, Max(absent, Load(input + begin + i)));
  for (; i < count; ++i) {
    const float score = ToFloat(input[begin + i]);
    scores[i] = score < row.absent ? row.absent : score;
  }
  for (; i % kGroup != 0; ++i) scores[i] = row.absent;
  for (int64_t j = TileBegin(row, tile); j < row.tile_ends[tile]; ++j) {
    scores[row.targets[row.by_tile[j]] - begin] = row.absent;
  }
}

// A tile of scores, without targets and in whole groups, as the inner loops see it.
template <class Source>
struct Tile {
  const Source *scores;
  int64_t count;
  const char *next;        // the scores of the next tile in memory,
  const char *output;      // the memory that is written when this tile is done, if any,
  int64_t size_in_memory;  // and the bytes that one score takes there
};

// Loads the group at i, and fetches into the cache what will be needed at i.
template <class Source>
MLML_INLINE void LoadGroup(const Tile<Source> &tile, int64_t i, Floats (&group)[kVectors]) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(Source));  // scores of a cache line
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    group[v] = Load(tile.scores + i + v * kLanes);
    if (v * kLanes % kLine != 0) continue;
    __builtin_prefetch(tile.next + (i + v * kLanes) * tile.size_in_memory);
    if (tile.output != nullptr) __builtin_prefetch(tile.output + (i + v * kLanes) * tile.size_in_memory, 1);
  }
}

// Calls use(tile) with a tile of the row: as it lies in memory where it can, otherwise, or if told to, a copy in
// which nothing is less than row.absent.
template <class T, class Use>
void WithTile(const T *input, int64_t classes, const Row &row, int64_t tile, const T *output, bool copy, Use use) {
  const T *scores = input + tile * kTile;
  const int64_t count = std::min(kTile, classes - tile * kTile);
  const char *next = reinterpret_cast<const char *>(scores + kTile);
  const char *written = output == nullptr ? nullptr : reinterpret_cast<const char *>(output + tile * kTile);
  if (!copy && count % kGroup == 0 && TileBegin(row, tile) == row.tile_ends[tile]) {
    use(Tile<T>{scores, count, next, written, sizeof(T)});
    return;
  }
  float copied[kTile];
  LoadTile(input, classes, row, tile, copied);
  use(Tile<float>{copied, (count + kGroup - 1) / kGroup * kGroup, next, written, sizeof(T)});
}

// Calls work(scores, places) for the scores of the tile, a group at a time; vector v stands at places[v] of the tile.
//
// With kSifts, groups are put together of the vectors in which a score is greater than the least threshold, or NaN:
// late in training these are few, and the others add nothing to the loss and have no gradient. Calls rest(i) for each
// group that is taken apart, before work. No branch depends on a single vector, but for the first two: where both have
// such a score, as early in training, the group is taken as it is.
template <bool kSifts, class Source, class Rest, class Work>
MLML_INLINE void WithActive(const Tile<Source> &tile, const Row &row, Rest rest, Work work) {
  float sifted[kTile + kLanes];
  int64_t sifted_places[kTile / kLanes + 1];
  int number = 0;  // of sifted vectors
  const Floats least = Fill(row.least);
  for (int64_t i = 0; i < tile.count; i += kGroup) {
    Floats scores[kVectors];
    int64_t places[kVectors];
    LoadGroup(tile, i, scores);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) places[v] = i + v * kLanes;
    if (!kSifts || (AnyNotAtMost(scores[0], least) && AnyNotAtMost(scores[1], least))) {
      work(scores, places);
      continue;
    }
    rest(i);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      Store(sifted + number * kLanes, scores[v]);
      sifted_places[number] = places[v];
      number += AnyNotAtMost(scores[v], least);
    }
  }
  for (int begin = 0; begin < number; begin += kVectors) {
    // The last group may be incomplete. What stands in for the missing vectors comes first: where work writes, the
    // vector at the same place overwrites it.
    const int missing = std::max(begin + kVectors - number, 0);
    Floats scores[kVectors];
    int64_t places[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const int from = begin + std::max(v - missing, 0);
      scores[v] = v < missing ? Fill(row.absent) : Load(sifted + from * kLanes);
      places[v] = sifted_places[from];
    }
    work(scores, places);
  }
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
