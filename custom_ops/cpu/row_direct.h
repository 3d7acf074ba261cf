// The direct method, for few thresholds: each score is compared with each of them.
//
// A method has Hinges(scores, hinges), for each score of a group the sum of its hinges, and Ranks(scores, ranks), for
// each the number of thresholds that are less. NaN makes a hinge NaN; its rank may be any.
#pragma once

#include "row_tile.h"

namespace mlml {
namespace MLML_ISA {
namespace {

// Adds a value. The units that add are busy with differences and comparisons: those that multiply can do it as well.
MLML_INLINE void AddByMultiplier(Floats value, Floats *sum) { *sum = MultiplyAdd(value, Fill(1), *sum); }

class Direct {
 public:
  static constexpr bool kSifts = false;
  static constexpr bool kCountsTargets = true;  // and not ranks

  explicit Direct(const Row &row) : thresholds_(row.thresholds.data()), count_(row.targets.size()) {}

  MLML_INLINE void Hinges(const Floats (&scores)[kVectors], Floats (&hinges)[kVectors]) const {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) hinges[v] = Floats{};
    for (size_t j = 0; j < count_; ++j) {
      const Floats threshold = Fill(thresholds_[j]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) AddByMultiplier(Hinge(scores[v] - threshold), &hinges[v]);
    }
  }

  // Counts the active scores of each target too, kLanes counts side by side.
  MLML_INLINE void Ranks(const Floats (&scores)[kVectors], Ints (&ranks)[kVectors], uint32_t *counts) const {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) ranks[v] = Ints{};
    for (size_t j = 0; j < count_; ++j) {
      const Floats threshold = Fill(thresholds_[j]);
      auto *active_of = reinterpret_cast<int32_t *>(counts + j * kLanes);
      Ints active = Load(active_of);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        ranks[v] = CountGreater(ranks[v], scores[v], threshold);
        active = CountGreater(active, scores[v], threshold);
      }
      Store(active_of, active);
    }
  }

 private:
  const float *thresholds_;
  size_t count_;
};

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
