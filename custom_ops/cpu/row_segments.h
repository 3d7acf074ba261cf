// The method of segments, for some thresholds: the sorted thresholds are cut into segments of the same number, so few
// that a table of one entry for each is looked up by one instruction.
//
// A small tree finds the segment that a score lies in. All thresholds of the segments below are less: their hinges are
// a line in the score. Those of the segment itself are looked up one after the other and compared.
#pragma once

#include <algorithm>

#include "row_direct.h"
#include "row_sort.h"

namespace mlml {
namespace MLML_ISA {
namespace {

// The tree writes what it decides into the bits of a place, the first decision into the lowest: so a level's nodes are
// a table that the bits so far look up. A place is a segment's number with its bits in reverse.
int Reversed(int value, int bits) {
  int reversed = 0;
  for (int bit = 0; bit < bits; ++bit) reversed |= (value >> bit & 1) << (bits - 1 - bit);
  return reversed;
}

// How many nodes each level of a tree has room for: a whole number of vectors, and what the last needs.
constexpr int LevelSize(int levels) { return std::max(kLanes, 1 << (levels - 1)); }

// Builds the tree over 2^levels segments; segment s begins with the sorted threshold number start(s). The one before it
// is its bound: what is greater lies in this segment or in a later one.
template <class Start>
void BuildTree(int levels, Start start, Row *row) {
  row->levels = levels;
  row->bounds.Assign(int64_t{levels} * LevelSize(levels), kInfinity);
  for (int level = 0; level < levels; ++level) {
    float *nodes = row->bounds.data() + level * LevelSize(levels);
    for (int node = 0; node < 1 << level; ++node) {
      const int segment = (2 * Reversed(node, level) + 1) << (levels - 1 - level);
      nodes[node] = row->sorted.data()[start(segment) - 1];
    }
  }
}

// The places of the segments that the scores lie in.
template <int kLevels>
MLML_INLINE void FindPlaces(const float *bounds, const Floats (&scores)[kVectors], Ints (&places)[kVectors]) {
  const Floats root = Fill(bounds[0]);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) places[v] = AddIfGreater(Ints{} + kFirstPlace, kPlaceStep, scores[v], root);
#pragma GCC unroll 8
  for (int level = 1; level < kLevels; ++level) {
    const Table<LevelSize(kLevels)> nodes(bounds + level * LevelSize(kLevels));
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      places[v] = AddIfGreater(places[v], kPlaceStep << level, scores[v], nodes(places[v]));
    }
  }
}

// Cuts the sorted thresholds, padded by +inf, into 2^levels segments. No threshold stands at the last place of the
// last.
void BuildSegments(int levels, Row *row) {
  const int segments = 1 << levels;
  row->depth = row->sorted_count / segments + 1;
  BuildTree(levels, [=](int segment) { return segment * row->depth; }, row);
  const float *sorted = row->sorted.data();
  row->first.Assign(segments, 0);
  for (Aligned<float> *table : {&row->count, &row->base, &row->rest}) table->Assign(segments, 0);
  row->steps.Assign((row->depth - 1) * segments, kInfinity);
  double sum = 0;  // of the thresholds below the segment
  for (int segment = 0; segment < segments; ++segment) {
    const int place = Reversed(segment, levels);
    const int64_t first = segment * row->depth;
    if (first > row->sorted_count) break;  // no score is greater than +inf
    row->first.data()[place] = static_cast<int32_t>(first);
    if (first > 0) {
      const float base = sorted[first - 1];
      row->count.data()[place] = static_cast<float>(first);
      row->base.data()[place] = base;
      row->rest.data()[place] = static_cast<float>(static_cast<double>(first) * base - sum);
    }
    for (int64_t step = 0; step < row->depth; ++step) {
      sum += sorted[first + step];
      if (step < row->depth - 1) row->steps.data()[step * segments + place] = sorted[first + step];
    }
  }
}

template <int kLevels>
class Segments {
 public:
  static constexpr bool kSifts = true;
  static constexpr bool kCountsTargets = false;

  explicit Segments(const Row &row)
      : bounds_(row.bounds.data()),
        first_(reinterpret_cast<const float *>(row.first.data())),
        count_(row.count.data()),
        base_(row.base.data()),
        rest_(row.rest.data()),
        steps_(row.steps.data()),
        end_(steps_ + (row.depth - 1) * kSegments) {}

  MLML_INLINE void Hinges(const Floats (&scores)[kVectors], Floats (&hinges)[kVectors]) const {
    Ints places[kVectors];
    FindPlaces<kLevels>(bounds_, scores, places);
    // From the least on: small hinges are not added to a large sum one by one.
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) hinges[v] = Floats{};
    for (const float *step = steps_; step != end_; step += kSegments) {
      const Lookup thresholds(step);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        AddByMultiplier(Hinge(scores[v] - thresholds(places[v])), &hinges[v]);
      }
    }
    const Lookup count(count_), base(base_), rest(rest_);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      hinges[v] += MultiplyAdd(count(places[v]), scores[v] - base(places[v]), rest(places[v]));
    }
  }

  MLML_INLINE void Ranks(const Floats (&scores)[kVectors], Ints (&ranks)[kVectors], uint32_t *) const {
    Ints places[kVectors];
    FindPlaces<kLevels>(bounds_, scores, places);
    const Lookup first(first_);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) ranks[v] = reinterpret_cast<Ints>(first(places[v]));
    for (const float *step = steps_; step != end_; step += kSegments) {
      const Lookup thresholds(step);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) ranks[v] = CountGreater(ranks[v], scores[v], thresholds(places[v]));
    }
  }

 private:
  static constexpr int kSegments = 1 << kLevels;
  using Lookup = Table<kSegments>;
  const float *bounds_, *first_, *count_, *base_, *rest_, *steps_, *end_;
};

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
