// The direct method, for few thresholds: each score is set against each of them.
//
// A method has two classes. One finds Hinges(scores, hinges): for each score of a group the sum of its hinges, which a
// score of NaN makes NaN. The other finds Ranks(scores, ranks): the number of thresholds that are less, or any for NaN.
#pragma once

#include <algorithm>

#include "row_lines.h"
#include "row_sort.h"
#include "row_tile.h"

namespace mlml {
namespace MLML_ISA {
namespace {

// So many thresholds share an anchor.
constexpr int64_t kAnchored = 4;

// The anchor of each few thresholds, and the starts of their further lines.
void BuildDirectLines(Row *row) {
  const float *sorted = row->sorted.data();
  row->direct.lines.Assign(row->sorted_count, 0);
  float anchor = 0;
  double sum = 0;
  for (int64_t i = 0; i < row->sorted_count; ++i) {
    const bool anchors = i % kAnchored == 0;
    if (anchors) anchor = sorted[i];
    sum = anchors ? 0 : sum + (static_cast<double>(sorted[i]) - anchor);
    row->direct.lines.data()[i] = anchors ? anchor : LineStart(sum);
  }
}

// For exactly kThresholds.
template <int kThresholds>
class DirectHinges {
 public:
  static constexpr bool kCompacts = false;

  explicit DirectHinges(const Row &row) {
    for (int i = 0; i < kThresholds; ++i) lines_[i] = Set(row.direct.lines.data()[i]);
  }

  MLML_INLINE void Hinges(const Floats (&scores)[kVectors], Floats (&hinges)[kVectors]) const {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) hinges[v] = HingesFrom<0>(scores[v]);
  }

 private:
  // The hinges of the thresholds from number kFirst on, which is an anchor.
  template <int kFirst>
  MLML_INLINE Floats HingesFrom(Floats score) const {
    constexpr int kLeft = kThresholds - kFirst, kNumber = std::min<int>(kLeft, kAnchored);
    const Floats distance = score - lines_[kFirst];
    Floats hinges = Hinge(distance);
#pragma GCC unroll 4
    for (int n = 1; n < kNumber; ++n) {
      const Floats slope = Set(static_cast<float>(n + 1));
      hinges = MaxOfPositive(hinges, MulAdd(distance, slope, lines_[kFirst + n]));
    }
    if constexpr (kLeft > kAnchored) hinges += HingesFrom<kFirst + kAnchored>(score);
    return hinges;
  }

  Floats lines_[kThresholds];
};

class DirectRanks {
 public:
  static constexpr bool kCompacts = false;
  static constexpr bool kCountsTargets = true;  // and not ranks

  explicit DirectRanks(const Row &row) : thresholds_(row.thresholds.data()), count_(row.targets.size()) {}

  // Counts the active scores of each target too, kLanes counts side by side.
  MLML_INLINE void Ranks(const Floats (&scores)[kVectors], Ints (&ranks)[kVectors], uint32_t *counts) const {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) ranks[v] = Ints{};
#pragma GCC unroll 2
    for (int begin = 0; begin < kVectors; begin += kSideBySide) {
      for (size_t j = 0; j < count_; ++j) {
        const Floats threshold = Set(thresholds_[j]);
        auto *active_of = reinterpret_cast<int32_t *>(counts + j * kLanes);
        Ints active = Load(active_of);
#pragma GCC unroll 8
        for (int v = begin; v < begin + kSideBySide; ++v) {
          ranks[v] = CountGreater(ranks[v], scores[v], threshold);
          active = CountGreater(active, scores[v], threshold);
        }
        Store(active_of, active);
      }
    }
  }

 private:
  static constexpr int kSideBySide = kLanes == 16 ? 8 : 4;  // as many as there are registers for

  const float *thresholds_;
  size_t count_;
};

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
