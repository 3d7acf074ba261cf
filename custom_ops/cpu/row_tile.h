// A tile of scores, as the inner loops see it: without targets, and in whole groups of vectors.
//
// Where a tile has targets or a remainder, it is copied, and they are replaced by scores that are active
// with no target, so that the inner loops need no case for either.
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

template <class T>
void LoadAll(const void *from, int64_t count, float *to) {
  const T *values = static_cast<const T *>(from);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(to + i, Load(values + i));
  for (; i < count; ++i) to[i] = ToFloat(values[i]);
}

template <class T>
void StoreAll(const float *from, int64_t count, void *to) {
  T *values = static_cast<T *>(to);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(values + i, Load(from + i));
  for (; i < count; ++i) values[i] = FromDouble<T>(from[i]);
}

// Loads a tile of scores, pads it to whole groups, and takes the targets out. Nothing in it is less than
// row.masked_score; NaN stays NaN.
template <class T>
void LoadTile(const T *input, int64_t classes, const Row &row, int64_t tile, float *scores) {
  const int64_t begin = tile * kTile;  // of which `input` holds the scores
  const int64_t count = std::min(kTile, classes - begin);
  const Floats masked_score = Set(row.masked_score);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(scores + i, Max(masked_score, Load(input + i)));
  for (; i < count; ++i) {
    const float score = ToFloat(input[i]);
    scores[i] = score < row.masked_score ? row.masked_score : score;
  }
  for (; i % kGroup != 0; ++i) scores[i] = row.masked_score;
  for (int64_t j = TileBegin(row, tile); j < row.tile_ends[tile]; ++j) {
    scores[row.targets[row.by_tile[j]] - begin] = row.masked_score;
  }
}

// A tile of scores, without targets and in whole groups, as the inner loops see it.
template <class Source>
struct Tile {
  const Source *scores;
  int64_t count;
  const Source *next;  // the scores of the next tile in memory
};

// Loads the group at i, and fetches into the cache what will be needed there when the next tile's turn comes.
template <class Source>
MLML_INLINE void LoadGroup(const Tile<Source> &tile, int64_t i, Floats (&group)[kVectors]) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(Source));  // scores of a cache line
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    group[v] = Load(tile.scores + i + v * kLanes);
    if (v * kLanes % kLine == 0) __builtin_prefetch(tile.next + i + v * kLanes);
  }
}

// Calls use(tile) with a tile of the row, whose scores are given: as it lies in memory where it can, otherwise, or if
// told to, a copy in which nothing is less than row.masked_score.
template <class T, class Use>
void WithTile(const T *scores, int64_t classes, const Row &row, int64_t tile, bool copy, Use use) {
  const int64_t count = std::min(kTile, classes - tile * kTile);
  if (!copy && count % kGroup == 0 && TileBegin(row, tile) == row.tile_ends[tile]) {
    use(Tile<T>{scores, count, scores + kTile});
    return;
  }
  float copied[kTile];
  LoadTile(scores, classes, row, tile, copied);
  // In float16 it is more than the next tile that is fetched.
  use(Tile<float>{copied, (count + kGroup - 1) / kGroup * kGroup, reinterpret_cast<const float *>(scores + kTile)});
}

// Scores that may be active, compacted out of consecutive tiles until they make groups, and their places in these.
struct Compacted {
  float scores[kTile + kGroup];
  int32_t places[kTile + kGroup];
  int64_t number = 0;
};

// Calls take(i, scores) for the groups of the tile, i being the group's place in it.
//
// With kCompacts only for those in which many scores may be active: greater than the least threshold, or NaN. Late in
// training these are few; the others add nothing to the loss and have no gradient. From the other groups they are
// compacted, after a call of pass(i). `begin` is the tile's place.
template <bool kCompacts, class Source, class Take, class Pass>
MLML_INLINE void TakeOrCompact(const Tile<Source> &tile, const Row &row, int64_t begin, Compacted *compacted, Take take,
                               Pass pass) {
  int64_t number = compacted->number;
  const Floats least = Set(row.least);
  Ints place;
  for (int lane = 0; lane < kLanes; ++lane) place[lane] = static_cast<int32_t>(begin) + lane;
  for (int64_t i = 0; i < tile.count; i += kGroup) {
    Floats scores[kVectors];
    LoadGroup(tile, i, scores);
    if (!kCompacts || CountTrue(NotAtMost(scores[0], least)) + CountTrue(NotAtMost(scores[1], least)) >= kLanes) {
      take(i, scores);
      continue;
    }
    pass(i);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const Lanes active = NotAtMost(scores[v], least);
      CompressStore(active, scores[v], compacted->scores + number);
      CompressStore(active, place + static_cast<int32_t>(i + v * kLanes), compacted->places + number);
      number += CountTrue(active);
    }
  }
  compacted->number = number;
}

// Calls take(scores, places, number) for each whole group that was compacted, and keeps what is left; or, if it is the
// last time, also for what is left: of the last group only `number` scores have been compacted, the others are
// row.masked_score.
template <class Take>
MLML_INLINE void TakeCompacted(const Row &row, bool last, Compacted *compacted, Take take) {
  int64_t begin = 0;
  if (last) {
    for (int64_t i = compacted->number; i % kGroup != 0; ++i) compacted->scores[i] = row.masked_score;
  }
  for (; last ? begin < compacted->number : begin + kGroup <= compacted->number; begin += kGroup) {
    Floats scores[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) scores[v] = Load(compacted->scores + begin + v * kLanes);
    take(scores, compacted->places + begin, std::min(kGroup, compacted->number - begin));
  }
  if (begin == 0) return;
  std::copy(compacted->scores + begin, compacted->scores + std::max(begin, compacted->number), compacted->scores);
  std::copy(compacted->places + begin, compacted->places + std::max(begin, compacted->number), compacted->places);
  compacted->number = std::max<int64_t>(compacted->number - begin, 0);
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
