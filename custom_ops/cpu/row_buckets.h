// The method of buckets, for many thresholds: the bucket of a score is computed, and has few thresholds or none.
//
// The tree of row_segments.h finds the segment of a score. A segment has B buckets (`buckets`), and x lies in bucket
//
//   first_bucket[s] + trunc(min(max((x - origin[s]) * factor[s], 0), B - 1)).
//
// Example: a segment from 0 to 8 with B = 4 has origin 0 and factor 4 / 8; x = 3 lies in its bucket trunc(1.5) = 1.
//
// Invariant: the number of the bucket never decreases as x increases, rounding included, and is computed for thresholds
// as it is for scores. So thresholds in earlier buckets are < x, those in later ones are not, exactly; only the at most
// kRoom thresholds of x's own bucket are compared. A bucket with more is marked kCrowded, and searched by bisection.
// Each segment is divided by itself: an outlier or a dense cluster among the thresholds affects its own segment alone.
//
// Cost for a vector of scores: kBucketLevels + 3 permutes, a multiplication, and a load of 16 bytes for each score.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "row_segments.h"

namespace mlml {
namespace MLML_ISA {
namespace {

// How many segments there are: as many as the tables of one vector have entries.
constexpr int kBucketLevels = kLanes == 16 ? 4 : kLanes == 8 ? 3 : 2;
// For each threshold. With these a bucket has more than it has room for only where thresholds crowd together.
constexpr int64_t kBucketsPerThreshold = 3;
constexpr int kRoom = 3;  // of a bucket
// Marks the first threshold of a bucket that has more: they are searched.
constexpr int32_t kCrowded = std::numeric_limits<int32_t>::min();

// The buckets that the scores lie in, given the slots of their segments.
class Spread {
 public:
  explicit Spread(const Row &row)
      : origin_(row.buckets.origin.data()),
        factor_(row.buckets.factor.data()),
        first_bucket_(reinterpret_cast<const float *>(row.buckets.first_bucket.data())),
        last_(static_cast<float>(row.buckets.count - 1)) {}

  MLML_INLINE Ints operator()(Floats score, Ints slot) const {
    const TableLookup<1 << kBucketLevels> origin(origin_), factor(factor_), first_bucket(first_bucket_);
    // NaN, where 0 is multiplied by an infinite score, becomes 0: then the segment has one bucket.
    const Floats position = Max((score - origin(slot)) * factor(slot), Floats{});
    return reinterpret_cast<Ints>(first_bucket(slot)) + Truncate(Min(position, Set(last_)));
  }

 private:
  const float *origin_, *factor_, *first_bucket_;
  float last_;
};

// Where a segment begins among the sorted thresholds. Those at both ends have fewer: there the thresholds lie far apart
// and less evenly.
int64_t BucketsStart(int segment, int64_t count) {
  const double share = static_cast<double>(segment) / (1 << kBucketLevels);
  return 1 + static_cast<int64_t>(share * share * (3 - 2 * share) * static_cast<double>(count));
}

// Spreads each segment's thresholds over its buckets. What lies further from the middle three quarters than this many
// times their width goes into the outermost buckets: an outlier does not make room for itself.
constexpr double kTail = 2;

void BuildSpread(Row *row) {
  const int segments = 1 << kBucketLevels;
  const float *sorted = row->sorted.data();
  row->buckets.count = std::max<int64_t>(row->sorted_count * kBucketsPerThreshold / segments, 1);
  row->buckets.origin.Assign(segments, 0);
  row->buckets.factor.Assign(segments, 0);
  row->buckets.first_bucket.Assign(segments, 0);
  for (int segment = 0; segment < segments; ++segment) {
    // The first segment has the threshold before its start too.
    const int64_t begin = segment == 0 ? 0 : BucketsStart(segment, row->sorted_count);
    const int64_t end = std::min(BucketsStart(segment + 1, row->sorted_count), row->sorted_count);
    const int slot = SlotOf(segment, kBucketLevels);
    row->buckets.first_bucket.data()[slot] = static_cast<int32_t>(segment * row->buckets.count);
    if (begin >= end) continue;  // it has no thresholds
    const int64_t margin = (end - begin) / 8;
    const double low = sorted[begin + margin], high = sorted[end - 1 - margin];
    const double least = std::max<double>(sorted[begin], low - kTail * (high - low));
    const double greatest = std::min<double>(sorted[end - 1], high + kTail * (high - low));
    const double factor = static_cast<double>(row->buckets.count) / (greatest - least);
    if (!(factor > 0)) continue;  // all in one bucket
    row->buckets.origin.data()[slot] = static_cast<float>(least);
    row->buckets.factor.data()[slot] = static_cast<float>(std::min<double>(factor, -kLowest));
  }
}

void BuildBuckets(Row *row) {
  BuildTree(kBucketLevels, [=](int segment) { return BucketsStart(segment, row->sorted_count); }, row);
  BuildSpread(row);
  const int64_t buckets = row->buckets.count << kBucketLevels;
  const float *sorted = row->sorted.data();
  row->buckets.all.assign(buckets + 1, {0, {kInfinity, kInfinity, kInfinity}});
  Bucket *bucket = row->buckets.all.data();
  const Spread spread(*row);
  int32_t previous = -1;
  int64_t index = 0;  // in the bucket
  for (int64_t rank = 0; rank < row->sorted_count; rank += kLanes) {
    Floats thresholds[kVectors] = {Load(sorted + rank)};
    Ints slots[kVectors];
    FindSlots<kBucketLevels>(row->tree.bounds.data(), thresholds, slots);
    int32_t numbers[kLanes];
    Store(numbers, spread(thresholds[0], slots[0]));
    for (int64_t i = 0; i < std::min<int64_t>(kLanes, row->sorted_count - rank); ++i) {
      index = numbers[i] == previous ? index + 1 : 0;
      previous = numbers[i];
      ++bucket[previous].first;  // for now how many thresholds it has
      bucket[previous].thresholds[std::min<int64_t>(index, kRoom - 1)] = sorted[rank + i];
    }
  }
  int32_t first = 0;
  for (int64_t i = 0; i <= buckets; ++i) {
    const int32_t number = std::exchange(bucket[i].first, first);
    if (number > kRoom) bucket[i] = {first | kCrowded, {kInfinity, kInfinity, kInfinity}};
    first += number;
  }
}

// The line of each rank.
void BuildLines(Row *row) {
  const float *sorted = row->sorted.data();
  row->buckets.line_of.resize(row->sorted_count + 1);
  row->buckets.line_of[0] = {0, 0, 0, 0};
  double sum = 0;  // of the thresholds that are less
  for (int64_t rank = 1; rank <= row->sorted_count; ++rank) {
    const double count = row->thresholds_below[rank];
    const float anchor = sorted[rank - 1];
    sum += (count - row->thresholds_below[rank - 1]) * anchor;
    row->buckets.line_of[rank] = {static_cast<float>(count), anchor, static_cast<float>(count * anchor - sum), 0};
  }
}

class BucketRanks {
 public:
  static constexpr bool kCompacts = true;
  static constexpr bool kCountsTargets = false;

  explicit BucketRanks(const Row &row)
      : spread_(row), bounds_(row.tree.bounds.data()), sorted_(row.sorted.data()), bucket_(row.buckets.all.data()) {}

  MLML_INLINE void Ranks(const Floats (&scores)[kVectors], Ints (&ranks)[kVectors], uint32_t *) const {
    Ints slots[kVectors], crowded = {};
    FindSlots<kBucketLevels>(bounds_, scores, slots);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      Floats bucket[4];  // the first threshold's rank, and the thresholds
      LookUpRows(bucket_, spread_(scores[v], slots[v]), bucket);
      ranks[v] = reinterpret_cast<Ints>(bucket[0]);
      crowded |= ranks[v];
#pragma GCC unroll 4
      for (int i = 1; i < 4; ++i) ranks[v] = CountGreater(ranks[v], scores[v], bucket[i]);
    }
    if (AnyNegative(crowded)) SearchCrowded(scores, slots, ranks);
  }

 private:
  // Finds the ranks in crowded buckets. The searches of several scores run side by side as long as no branch depends on
  // the scores.
  __attribute__((noinline)) void SearchCrowded(const Floats (&scores)[kVectors], const Ints (&slots)[kVectors],
                                               Ints (&ranks)[kVectors]) const {
    for (int v = 0; v < kVectors; ++v) {
      if (!AnyNegative(ranks[v])) continue;
      int32_t bucket[kLanes], rank[kLanes], crowded[kLanes];
      float score[kLanes];
      Store(bucket, spread_(scores[v], slots[v]));
      Store(rank, ranks[v]);
      Store(score, scores[v]);
      int number = 0;
      for (int lane = 0; lane < kLanes; ++lane) {
        crowded[number] = lane;
        number += rank[lane] < 0;
      }
      for (int i = 0; i < number; ++i) {
        const int lane = crowded[i];
        int64_t first = rank[lane] & ~kCrowded;
        // Of so many thresholds from the first on, it is not known whether they are less.
        int64_t unknown = (bucket_[bucket[lane] + 1].first & ~kCrowded) - first;
        while (unknown > 0) {
          const int64_t half = (unknown + 1) / 2;
          first += half * static_cast<int64_t>(sorted_[first + half - 1] < score[lane]);
          unknown -= half;
        }
        rank[lane] = static_cast<int32_t>(first);
      }
      ranks[v] = Load(rank);
    }
  }

  Spread spread_;
  const float *bounds_, *sorted_;
  const Bucket *bucket_;
};

class BucketHinges {
 public:
  static constexpr bool kCompacts = true;

  explicit BucketHinges(const Row &row) : ranks_(row), line_of_(row.buckets.line_of.data()) {}

  MLML_INLINE void Hinges(const Floats (&scores)[kVectors], Floats (&hinges)[kVectors]) const {
    Ints ranks[kVectors];
    ranks_.Ranks(scores, ranks, nullptr);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      Floats line[4];  // slope, anchor and start
      LookUpRows(line_of_, ranks[v], line);
      hinges[v] = MulAdd(line[0], scores[v] - line[1], line[2]);
    }
  }

 private:
  BucketRanks ranks_;
  const Line *line_of_;
};

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
