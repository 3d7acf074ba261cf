// A slice of the classes: the data that the ranks exchange (ranks.h), written and used.
//
// Exchanged data are not trusted: they determine what is computed, not which addresses are read or written.
#pragma once

#include "../ranks.h"
#include "gradient.cuh"
#include "loss.cuh"

namespace mlml {
namespace {

// A bijection, splitmix64's, that makes a sum of its values a hash.
__device__ inline unsigned long long Mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

// Adds to *checksum, so that the order does not matter. Each word is hashed with its place.
template <int kBlock>
__global__ void __launch_bounds__(kBlock, kResidentThreads / kBlock)
    ChecksumKernel(const int32_t *target, int64_t rows, int64_t num_labels, int dtype, unsigned long long *checksum) {
  constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
  unsigned long long sum = 0;
  if (blockIdx.x == 0 && threadIdx.x == 0) sum = Mix(rows) + Mix(~num_labels) + Mix(kStep * (dtype + 1));
  for (int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x; i < rows * num_labels;
       i += int64_t{gridDim.x} * kBlock) {
    sum += Mix(kStep * (i + 1) + static_cast<uint32_t>(target[i]));
  }
  if (sum != 0) atomicAdd(checksum, sum);
}

// One thread. A place that cannot be makes a header of NaN, with which no rank agrees.
__global__ void HeaderKernel(const int64_t *place_values, int64_t classes, int64_t ranks,
                             const unsigned long long *checksum, float *header) {
  const Place place = PlaceOf(place_values, classes);
  if (FaultOf(place) == Fault::kNone && place.ranks == ranks) {
    WriteHeader(place, classes, *checksum, header);
  } else {
    for (int64_t i = 0; i < HeaderSize(ranks); ++i) header[i] = NAN;
  }
}

// One thread. `ranks` is how many the header has room for.
__global__ void ExtentKernel(const int64_t *place_values, int64_t classes, int64_t ranks, const float *header,
                             Extent *extent) {
  *extent = {0, 0, 0};
  const Place place = PlaceOf(place_values, classes);
  if (FaultOf(place) != Fault::kNone || place.ranks != ranks) return;
  const Agreement agreement = ReadHeader(place, classes, header);
  if (agreement.fault == Fault::kNone) *extent = {agreement.first_class, place.all_classes, place.rank};
}

// The scores of the targets that are in the slice. Those of the others stay 0.
template <class T, int kBlock>
__global__ void __launch_bounds__(kBlock, kResidentThreads / kBlock)
    TargetScoresKernel(Problem<T, true> problem, float *target_scores) {
  __shared__ int end;
  for (int64_t index = blockIdx.x; index < problem.rows; index += gridDim.x) {
    const int64_t first = index * problem.num_labels;
    VisitTargets<kBlock>(problem.target + first, problem.num_labels, &end, [&](int64_t j, int32_t label) {
      const int64_t i = label - problem.extent->first_class;
      if (i < 0 || i >= problem.classes) return;
      target_scores[first + j] = ToFloat(problem.input[index * problem.classes + i]);
    });
    __syncthreads();
  }
}

// This rank's part of each row's loss, or, where a row is in several pieces, the sum of each piece.
template <class T, int kBlock>
__global__ void __launch_bounds__(kBlock, kResidentThreads / kBlock)
    PartKernel(Problem<T, true> problem, PartialLayout layout, float *partial, PartialSum *pieces) {
  __shared__ LossShared<kBlock> shared;
  for (int64_t item = blockIdx.x; item < problem.rows * problem.pieces; item += gridDim.x) {
    const int64_t index = item / problem.pieces;
    const PartialSum sum = SumOfPiece<kBlock>(problem, index, item % problem.pieces, &shared);
    if (threadIdx.x == 0 && problem.pieces > 1) pieces[item] = sum;
    if (threadIdx.x == 0 && problem.pieces == 1) {
      const double loss = RowSum(sum) / static_cast<double>(problem.extent->all_classes);
      WritePart(loss, partial + layout.Part(problem.extent->rank, index));
    }
  }
}

template <int kBlock>
__global__ void __launch_bounds__(kBlock, kResidentThreads / kBlock)
    FinishPartKernel(const PartialSum *pieces, int64_t number, const Extent *extent, PartialLayout layout,
                     float *partial) {
  for (int64_t row = int64_t{blockIdx.x} * kBlock + threadIdx.x; row < layout.rows;
       row += int64_t{gridDim.x} * kBlock) {
    PartialSum sum = {0, 0};
    for (int64_t piece = 0; piece < number; ++piece) {
      sum.sum += pieces[row * number + piece].sum;
      sum.flags |= pieces[row * number + piece].flags;
    }
    WritePart(RowSum(sum) / static_cast<double>(extent->all_classes), partial + layout.Part(extent->rank, row));
  }
}

// Adds to each target's count how many classes of the slice it is active with. The counts are floats, but exact, so
// that their order does not matter. Rows with more targets than one tree holds are read once for each tree.
template <class T, int kBlock>
__global__ void __launch_bounds__(kBlock, kResidentThreads / kBlock)
    CountKernel(Problem<T, true> problem, PartialLayout layout, float *partial) {
  __shared__ GradientShared<kBlock> shared;
  for (int64_t item = blockIdx.x; item < problem.rows * problem.pieces; item += gridDim.x) {
    const int64_t index = item / problem.pieces;
    const int64_t begin = item % problem.pieces * problem.piece;
    const int64_t end = begin + problem.piece < problem.classes ? begin + problem.piece : problem.classes;
    float *counts = partial + layout.Counts(index);
    const auto row = ReadRow<kBlock>(problem, index, &shared);
    bool has_nan = row.out_of_range;
    for (int64_t first = 0; first < row.num_targets; first += Tree<kBlock>::kMost) {
      __syncthreads();
      const auto count = static_cast<int>(TreeCount<kBlock>(row.num_targets - first));
      for (int j = threadIdx.x; j < count; j += kBlock) has_nan = has_nan || isnan(TargetScore(row, first + j));
      const int levels = BuildTargetTree<kBlock>(row, first, count, &shared);
      const int ways = Ways<kBlock>(count), way = static_cast<int>(threadIdx.x) & (ways - 1);
      for (int i = threadIdx.x; i < (count + 1) * ways; i += kBlock) shared.counts[i] = 0;
      ForEachVector<kBlock>(row, begin, end, -kInfinity, &shared, [&](int64_t, const auto &scores, uint32_t) {
        int ranks[Vector<T>::kSize];
        Rank(shared.nodes, levels, scores, ranks);
#pragma unroll
        for (int e = 0; e < Vector<T>::kSize; ++e) {
          has_nan = has_nan || isnan(scores[e]);
          if (ranks[e] > 0) atomicAdd(&shared.counts[ranks[e] * ways + way], 1u);
        }
      });
      has_nan = __syncthreads_or(has_nan) != 0;
      AddUp<kBlock>(count, ways, &shared);
      for (int j = threadIdx.x; j < count; j += kBlock) {
        const float threshold[1] = {Threshold(TargetScore(row, first + j))};
        int less[1];
        Rank(shared.nodes, levels, threshold, less);
        atomicAdd(&counts[first + j], has_nan ? NAN : static_cast<float>(shared.counts[less[0] + 1]));
      }
    }
  }
}

// The loss, from all ranks' parts of it: of each row, or, by one block, of all.
template <class T, int kBlock>
__global__ void __launch_bounds__(kBlock, kResidentThreads / kBlock)
    LossOfPartsKernel(const float *partial, PartialLayout layout, const Extent *extent, double divisor, bool reduce,
                      T *loss) {
  __shared__ typename Tree<kBlock>::Sum::TempStorage shared;
  double total = 0;
  for (int64_t row = int64_t{blockIdx.x} * kBlock + threadIdx.x; row < layout.rows;
       row += int64_t{gridDim.x} * kBlock) {
    double row_loss = extent->all_classes == 0 ? NAN : 0;
    for (int64_t rank = 0; rank < layout.ranks; ++rank) row_loss += ReadPart(partial + layout.Part(rank, row));
    if (!reduce) Round(row_loss, &loss[row]);
    total += row_loss;
  }
  if (!reduce) return;
  total = typename Tree<kBlock>::Sum(shared).Sum(total);  // known to the first thread
  if (threadIdx.x == 0) Round(total / divisor, loss);
}

// The gradient of the slice. The targets' numbers of active classes are given.
template <class T, int kBlock>
__global__ void __launch_bounds__(kBlock, kResidentThreads / kBlock)
    GradientOfSliceKernel(Problem<T, true> problem, Scale<T> scale_of, const float *partial, PartialLayout layout,
                          T *gradients) {
  __shared__ GradientShared<kBlock> shared;
  scale_of.divisor *= static_cast<double>(problem.extent->all_classes);
  for (int64_t item = blockIdx.x; item < problem.rows * problem.pieces; item += gridDim.x) {
    const int64_t index = item / problem.pieces;
    const int64_t begin = item % problem.pieces * problem.piece;
    const int64_t end = begin + problem.piece < problem.classes ? begin + problem.piece : problem.classes;
    const float *counts = partial + layout.Counts(index);
    T *gradient = gradients + index * problem.classes;
    const auto row = ReadRow<kBlock>(problem, index, &shared);
    bool has_nan = row.out_of_range;
    for (int64_t j = threadIdx.x; j < row.num_targets; j += kBlock) has_nan = has_nan || isnan(counts[j]);
    has_nan = __syncthreads_or(has_nan) != 0;
    if (has_nan || row.num_targets == 0) {
      Fill<kBlock>(gradient, begin, end, has_nan ? NAN : 0.0);
      continue;
    }
    const double scale = scale_of.Of(index);
    if (row.num_targets > Tree<kBlock>::kMost) {
      GradientOfMany<kBlock>(row, begin, end, scale, &shared, gradient);
    } else {
      const auto count = static_cast<int>(row.num_targets);
      const int levels = BuildTargetTree<kBlock>(row, 0, count, &shared);
      GradientOfOthers<kBlock>(row, begin, end, levels, Ways<kBlock>(count), scale, &shared, gradient);
    }
    for (int64_t j = threadIdx.x; j < row.num_targets; j += kBlock) {
      const int64_t i = row.labels[j] - row.first_class;
      if (i < begin || i >= end) continue;
      int64_t times = 0;
      for (int64_t other = 0; other < row.num_targets; ++other) times += row.labels[other] == row.labels[j];
      Round(-static_cast<double>(times * ReadCount(counts[j])) * scale, &gradient[i]);
    }
  }
}

}  // namespace
}  // namespace mlml
