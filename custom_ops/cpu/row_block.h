// A block of scores, as the inner loops see it: without targets, and in whole groups of vectors.
//
// Where a block has targets or a remainder, it is copied, and scores that are active with nothing stand in for them:
// the inner loops know neither.
#pragma once

#include <algorithm>

#include "row_targets.h"

namespace mlml {
namespace MLML_LEVEL {
namespace {

constexpr int64_t kGroup = 8 * kLanes;  // blocks are padded to whole groups
static_assert(kBlock % kGroup == 0, "blocks are made of groups");

// Loads a block of scores, pads it to whole groups, and takes the targets out. False if a score is not finite, also one
// of a target.
template <class T>
bool LoadBlock(const T *input, int64_t classes, const Row &row, int64_t block, float *scores) {
  const int64_t begin = block * kBlock;
  const int64_t count = std::min(kBlock, classes - begin);
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
  for (int64_t j = BlockBegin(row, block); j < row.block_ends[block]; ++j) {
    scores[row.targets[row.by_block[j]] - begin] = row.absent;
  }
  return sum == 0;
}

template <class T>
void StoreBlock(const float *values, int64_t count, T *to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(to + i, Load(values + i));
  for (; i < count; ++i) to[i] = FromDouble<T>(values[i]);
}

// A block of scores, without targets and in whole groups, as the inner loops see it.
template <class Source>
struct Block {
  const Source *scores;
  int64_t count;
  const char *next;        // the scores of the next block in memory,
  const char *output;      // the memory that is written when this block is done, if any,
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

// Calls use(block) with a block of the row: as it lies in memory where it can, otherwise, or if told to, a copy in
// which nothing is less than row.absent. False if the copy shows a score that is not finite.
template <class T, class Use>
bool WithBlock(const T *input, int64_t classes, const Row &row, int64_t block, const T *output, bool copy, Use use) {
  const T *scores = input + block * kBlock;
  const int64_t count = std::min(kBlock, classes - block * kBlock);
  const char *next = reinterpret_cast<const char *>(scores + kBlock);
  const char *written = output == nullptr ? nullptr : reinterpret_cast<const char *>(output + block * kBlock);
  if (!copy && count % kGroup == 0 && BlockBegin(row, block) == row.block_ends[block]) {
    use(Block<T>{scores, count, next, written, sizeof(T)});
    return true;
  }
  float copied[kBlock];
  const bool finite = LoadBlock(input, classes, row, block, copied);
  use(Block<float>{copied, (count + kGroup - 1) / kGroup * kGroup, next, written, sizeof(T)});
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
}  // namespace MLML_LEVEL
}  // namespace mlml
