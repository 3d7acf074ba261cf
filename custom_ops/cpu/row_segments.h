// The method of segments: search among T sorted thresholds without gathers; every table fits one register permute.
//
// t[0] <= t[1] <= ... <= t[T-1], padded with +inf, are cut into S = 2^levels segments of m = T / S + 1 thresholds
// (segment_size). Example, T = 5, S = 4, m = 2:
//
//   s = 0: t0 t1 | s = 1: t2 t3 | s = 2: t4 inf | s = 3: inf inf
//
// 1. The segment. x is in segment s if and only if t[s*m - 1] < x <= t[s*m + m - 1]. These bounds form a search tree:
//    `levels` comparisons find s. The slot of s is s with its bits in the order in which the tree decides them; all
//    tables are indexed by slot, because the tree yields slots.
// 2. The number of thresholds below x, its rank: s*m (`first`) + #{i < m - 1 : t[s*m + i] < x} (`steps`). The last
//    threshold of the segment is >= x by step 1, so m - 1 comparisons are enough.
// 3. The sum of hinges, with a = t[s*m - 1] (`anchor`): s*m * (x - a) + `start` for the segments below, plus, for its
//    own, the maximum over n < m of n * (x - a) - sum over i < n of (t[s*m + i] - a) (`lines`): a sum of hinges is
//    convex, and the maximum of its tangent lines. No term is negative, so nothing cancels.
//
// Cost for a vector of scores: `levels` + m - 1 permutes, and as many comparisons or fused multiply-adds.
#pragma once

#include <algorithm>

#include "row_direct.h"
#include "row_sort.h"

namespace mlml {
namespace MLML_ISA {
namespace {

// The tree's root decides this many bits: it counts how many of its bounds are less. Where a comparison gives a vector
// that is cheaper than to look up a node.
#if defined(__AVX512F__) || defined(MLML_NEON)
constexpr int kRootLevels = 1;
#else
constexpr int kRootLevels = 2;
static_assert(kFirstSlot == 0 && kSlotStep == 1, "a count is a slot");
#endif

// Each further level decides the next bit of a slot: so its nodes are a table that the bits so far look up. A slot is
// a segment's number but for the order of the bits.
int SlotOf(int segment, int levels) {
  int slot = segment >> (levels - kRootLevels);
  for (int bit = kRootLevels; bit < levels; ++bit) slot |= (segment >> (levels - 1 - bit) & 1) << bit;
  return slot;
}

// How many nodes each level of a tree has room for: a whole number of vectors, and what the last needs.
constexpr int LevelSize(int levels) { return std::max(kLanes, 1 << (levels - 1)); }

// Builds the tree over 2^levels segments; segment s begins with the sorted threshold number start(s). The one before it
// is its bound: what is greater lies in this segment or in a later one.
template <class Start>
void BuildTree(int levels, Start start, Row *row) {
  row->tree.levels = levels;
  row->tree.bounds.Assign(int64_t{levels} * LevelSize(levels), kInfinity);
  float *bounds = row->tree.bounds.data();
  const auto bound = [&](int segment) { return row->sorted.data()[start(segment) - 1]; };
  for (int branch = 1; branch < 1 << kRootLevels; ++branch) {
    bounds[branch - 1] = bound(branch << (levels - kRootLevels));
  }
  for (int level = kRootLevels; level < levels; ++level) {
    const int half = 1 << (levels - level - 1);
    for (int segment = 0; segment < 1 << levels; segment += 2 * half) {
      bounds[level * LevelSize(levels) + SlotOf(segment, levels)] = bound(segment + half);
    }
  }
}

// The slots of the segments that the scores lie in.
template <int kLevels>
MLML_INLINE void FindSlots(const float *bounds, const Floats (&scores)[kVectors], Ints (&slots)[kVectors]) {
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    if constexpr (kRootLevels == 1) {
      slots[v] = AddIfGreater(Ints{} + kFirstSlot, kSlotStep, scores[v], Set(bounds[0]));
    } else {
      slots[v] = Ints{};
#pragma GCC unroll 4
      for (int i = 0; i < (1 << kRootLevels) - 1; ++i) slots[v] = CountGreater(slots[v], scores[v], Set(bounds[i]));
    }
  }
#pragma GCC unroll 8
  for (int level = kRootLevels; level < kLevels; ++level) {
    const TableLookup<LevelSize(kLevels)> nodes(bounds + level * LevelSize(kLevels));
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      slots[v] = AddIfGreater(slots[v], kSlotStep << level, scores[v], nodes(slots[v]));
    }
  }
}

// Cuts the sorted thresholds, padded by +inf, into 2^levels segments. There is no threshold at the last position of the
// last.
void BuildSegments(int levels, Row *row) {
  row->segments.segment_size = (row->sorted_count >> levels) + 1;
  BuildTree(levels, [=](int segment) { return segment * row->segments.segment_size; }, row);
}

// The segments' ranks: how many thresholds are less than all of each, and its own.
void BuildSegmentRanks(Row *row) {
  const int segments = 1 << row->tree.levels;
  row->segments.first.Assign(segments, 0);
  row->segments.steps.Assign((row->segments.segment_size - 1) * segments, kInfinity);
  for (int segment = 0; segment < segments; ++segment) {
    const int slot = SlotOf(segment, row->tree.levels);
    const int64_t first = segment * row->segments.segment_size;
    if (first > row->sorted_count) break;  // no score is greater than +inf
    row->segments.first.data()[slot] = static_cast<int32_t>(first);
    for (int64_t step = 0; step < row->segments.segment_size - 1; ++step) {
      row->segments.steps.data()[step * segments + slot] = row->sorted.data()[first + step];
    }
  }
}

// The segments' lines: that of the thresholds that are less than all of it, and by how much each of its own raises it.
void BuildSegmentLines(Row *row) {
  const int segments = 1 << row->tree.levels;
  const float *sorted = row->sorted.data();
  for (Aligned<float> *table : {&row->segments.slope, &row->segments.anchor, &row->segments.start})
    table->Assign(segments, 0);
  row->segments.lines.Assign((row->segments.segment_size - 1) * segments, -kInfinity);
  double sum = 0;  // of the thresholds below the segment
  for (int segment = 0; segment < segments; ++segment) {
    const int slot = SlotOf(segment, row->tree.levels);
    const int64_t first = segment * row->segments.segment_size;
    if (first > row->sorted_count) break;
    const float anchor = sorted[std::max<int64_t>(first - 1, 0)];
    row->segments.slope.data()[slot] = static_cast<float>(first);
    row->segments.anchor.data()[slot] = anchor;
    row->segments.start.data()[slot] = static_cast<float>(static_cast<double>(first) * anchor - sum);
    double distances = 0;
    for (int64_t step = 0; step < row->segments.segment_size; ++step) {
      sum += sorted[first + step];
      distances += static_cast<double>(sorted[first + step]) - anchor;
      if (step < row->segments.segment_size - 1)
        row->segments.lines.data()[step * segments + slot] = LineStart(distances);
    }
  }
}

template <int kLevels>
class SegmentHinges {
 public:
  static constexpr bool kCompacts = true;

  explicit SegmentHinges(const Row &row)
      : bounds_(row.tree.bounds.data()),
        slope_(row.segments.slope.data()),
        anchor_(row.segments.anchor.data()),
        start_(row.segments.start.data()),
        lines_(row.segments.lines.data()),
        end_(lines_ + ((row.segments.segment_size - 1) << kLevels)) {}

  MLML_INLINE void Hinges(const Floats (&scores)[kVectors], Floats (&hinges)[kVectors]) const {
    using Lookup = TableLookup<1 << kLevels>;
    Ints slots[kVectors];
    FindSlots<kLevels>(bounds_, scores, slots);
    Floats distances[kVectors];
    const Lookup anchor(anchor_);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      distances[v] = scores[v] - anchor(slots[v]);
      hinges[v] = Floats{};
    }
    Floats steeper = {};
    for (const float *line = lines_; line != end_; line += 1 << kLevels) {
      const Lookup starts(line);
      steeper += 1;
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        hinges[v] = MaxOfPositive(hinges[v], MulAdd(distances[v], steeper, starts(slots[v])));
      }
    }
    const Lookup slope(slope_), start(start_);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) hinges[v] += MulAdd(slope(slots[v]), distances[v], start(slots[v]));
  }

 private:
  const float *bounds_, *slope_, *anchor_, *start_, *lines_, *end_;
};

template <int kLevels>
class SegmentRanks {
 public:
  static constexpr bool kCompacts = true;
  static constexpr bool kCountsTargets = false;

  explicit SegmentRanks(const Row &row)
      : bounds_(row.tree.bounds.data()),
        first_(reinterpret_cast<const float *>(row.segments.first.data())),
        steps_(row.segments.steps.data()),
        end_(steps_ + ((row.segments.segment_size - 1) << kLevels)) {}

  MLML_INLINE void Ranks(const Floats (&scores)[kVectors], Ints (&ranks)[kVectors], uint32_t *) const {
    using Lookup = TableLookup<1 << kLevels>;
    Ints slots[kVectors];
    FindSlots<kLevels>(bounds_, scores, slots);
    const Lookup first(first_);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) ranks[v] = reinterpret_cast<Ints>(first(slots[v]));
    for (const float *step = steps_; step != end_; step += 1 << kLevels) {
      const Lookup thresholds(step);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) ranks[v] = CountGreater(ranks[v], scores[v], thresholds(slots[v]));
    }
  }

 private:
  const float *bounds_, *first_, *steps_, *end_;
};

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
