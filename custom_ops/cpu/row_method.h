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
};

#if defined(__AVX512F__)
constexpr int kFewSegmentLevels = 4, kSegmentLevels = 5;
constexpr Crossovers kOfLoss = {7, 127, 800}, kOfGradient = {20, 63, 800};
#elif defined(__AVX2__)
constexpr int kFewSegmentLevels = 3, kSegmentLevels = 3;
constexpr Crossovers kOfLoss = {7, 0, 130}, kOfGradient = {13, 0, 130};
#elif defined(MLML_NEON)
// Not measured: those that execute the fewest instructions, as tools/instruction_counts.py counts them.
constexpr int kFewSegmentLevels = 4, kSegmentLevels = 4;
constexpr Crossovers kOfLoss = {5, 0, 143}, kOfGradient = {10, 0, 175};
#else
constexpr int kFewSegmentLevels = 2, kSegmentLevels = 2;
constexpr Crossovers kOfLoss = {16, 0, 45}, kOfGradient = {16, 0, 40};
#endif

Method FastestMethod(int64_t count, const Crossovers &crossovers) {
#if defined(MLML_METHOD)
  return Method::MLML_METHOD;
#else
  if (count <= crossovers.direct) return Method::kDirect;
  return count <= crossovers.segments ? Method::kSegments : Method::kBuckets;
#endif
}

// Prepares the row, whose thresholds are known, for the fastest method.
void PrepareMethod(const Crossovers &crossovers, Row *row) {
  const auto count = static_cast<int64_t>(row->targets.size());
  row->method = FastestMethod(count, crossovers);
  if (row->method == Method::kDirect) return;
  Sort(row);
  if (row->method == Method::kSegments) {
    BuildSegments(count <= crossovers.few_segments ? kFewSegmentLevels : kSegmentLevels, row);
  } else {
    MergeEqual(row);
    BuildBuckets(row);
  }
}

// Calls use(method) with the row's.
template <class Use>
MLML_INLINE void WithMethod(const Row &row, Use use) {
  if (row.method == Method::kDirect) {
    use(Direct(row));
  } else if (row.method == Method::kBuckets) {
    use(Buckets(row));
  } else if (row.levels == kFewSegmentLevels) {
    use(Segments<kFewSegmentLevels>(row));
  } else {
    use(Segments<kSegmentLevels>(row));
  }
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
