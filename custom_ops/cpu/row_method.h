// Which method finds the hinges and the ranks: the fastest, as benchmarks/kernels.py measured it with each of them
// forced (MLML_METHOD).
#pragma once

#include "row_buckets.h"
#include "row_direct.h"
#include "row_segments.h"

namespace mlml {
namespace MLML_ISA {
namespace {

// A method serves up to so many thresholds, and the next one more.
struct Crossovers {
  int64_t direct;
  int64_t few_segments;
  int64_t segments;
  int64_t few_classes;  // see IsWorthBuckets
};

#if defined(__AVX512F__)
constexpr int kFewSegmentLevels = 4, kSegmentLevels = 5;
constexpr Crossovers kOfLoss = {12, 127, 1100, 900}, kOfGradient = {22, 63, 1200, 600};
#elif defined(__AVX2__)
constexpr int kFewSegmentLevels = 3, kSegmentLevels = 3;
constexpr Crossovers kOfLoss = {10, 0, 210, 900}, kOfGradient = {17, 0, 240, 600};
#elif defined(MLML_NEON)
// Not measured: those that execute the fewest instructions, as tools/instruction_counts.py counts them.
constexpr int kFewSegmentLevels = 4, kSegmentLevels = 4;
constexpr Crossovers kOfLoss = {9, 0, 176, 900}, kOfGradient = {13, 0, 175, 600};
#else
constexpr int kFewSegmentLevels = 2, kSegmentLevels = 2;
constexpr Crossovers kOfLoss = {12, 0, 47, 90}, kOfGradient = {14, 0, 43, 60};
#endif

// The direct method's code for hinges grows with the number of thresholds.
#if defined(MLML_METHOD)
constexpr int64_t kMostDirectHinges = 24;
#else
constexpr int64_t kMostDirectHinges = kOfLoss.direct;
#endif

// Buckets save each score the more, the more thresholds there are beyond the crossover; making them takes the longer.
bool IsWorthBuckets(int64_t count, int64_t classes, const Crossovers &crossovers) {
  return count > crossovers.segments && classes > crossovers.few_classes * count / (count - crossovers.segments);
}

Method FastestMethod(int64_t count, int64_t classes, const Crossovers &crossovers) {
#if defined(MLML_METHOD)
  if (Method::MLML_METHOD != Method::kDirect || count <= kMostDirectHinges) return Method::MLML_METHOD;
#endif
  if (count <= crossovers.direct) return Method::kDirect;
  return IsWorthBuckets(count, classes, crossovers) ? Method::kBuckets : Method::kSegments;
}

// Sorts the thresholds and cuts them for the fastest method. The direct one takes them as they are.
void PrepareMethod(const Crossovers &crossovers, int64_t classes, Row *row) {
  const auto count = static_cast<int64_t>(row->targets.size());
  row->method = FastestMethod(count, classes, crossovers);
  if (row->method == Method::kDirect) return;
  Sort(row);
  if (row->method == Method::kSegments) {
    BuildSegments(count <= crossovers.few_segments ? kFewSegmentLevels : kSegmentLevels, row);
  } else if (row->method == Method::kBuckets) {
    MergeEqual(row);
    BuildBuckets(row);
  }
}

// Prepares the row, whose thresholds are known, for the sum of its hinges.
void PrepareHinges(int64_t classes, Row *row) {
  PrepareMethod(kOfLoss, classes, row);
  if (row->method == Method::kDirect) {
    Sort(row);
    BuildDirectLines(row);
  }
  if (row->method == Method::kSegments) BuildSegmentLines(row);
  if (row->method == Method::kBuckets) BuildLines(row);
}

// Calls use(hinges) with what finds the row's hinges.
template <int kThresholds = 1, class Use>
MLML_INLINE void WithHinges(const Row &row, Use use) {
  if (row.method == Method::kBuckets) return use(BucketHinges(row));
  if (row.method == Method::kSegments) {
    return row.tree.levels == kFewSegmentLevels ? use(SegmentHinges<kFewSegmentLevels>(row))
                                                : use(SegmentHinges<kSegmentLevels>(row));
  }
  if constexpr (kThresholds < kMostDirectHinges) {
    if (row.sorted_count > kThresholds) return WithHinges<kThresholds + 1>(row, use);
  }
  use(DirectHinges<kThresholds>(row));
}

// Calls use(ranks) with what finds the row's ranks.
template <class Use>
MLML_INLINE void WithRanks(const Row &row, Use use) {
  if (row.method == Method::kDirect) return use(DirectRanks(row));
  if (row.method == Method::kBuckets) return use(BucketRanks(row));
  row.tree.levels == kFewSegmentLevels ? use(SegmentRanks<kFewSegmentLevels>(row))
                                       : use(SegmentRanks<kSegmentLevels>(row));
}

// Prepares the row for its ranks, and finds those of the thresholds.
void PrepareRanks(int64_t classes, Row *row) {
  PrepareMethod(kOfGradient, classes, row);
  if (row->method == Method::kDirect) return;
  if (row->method == Method::kSegments) BuildSegmentRanks(row);
  row->ranks.resize(row->thresholds.size());
  WithRanks(*row, [&](const auto method) {
    for (size_t j = 0; j < row->ranks.size(); j += kGroup) {
      Floats thresholds[kVectors];
      Ints ranks[kVectors];
      for (int v = 0; v < kVectors; ++v) thresholds[v] = Load(&row->thresholds[j + v * kLanes]);
      method.Ranks(thresholds, ranks, nullptr);
      for (int v = 0; v < kVectors; ++v) Store(&row->ranks[j + v * kLanes], ranks[v]);
    }
  });
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
