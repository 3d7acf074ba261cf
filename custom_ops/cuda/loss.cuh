// The loss: each piece's sum of hinges and what in it is not finite, and how they become the rows' losses.
#pragma once

#include <cfloat>
#include <cmath>
#include <type_traits>

#include "tree.cuh"

namespace mlml {
namespace {

// A score x that exceeds k thresholds adds k * (x - base) + rest. The base is one of the k: the one at the leading bit
// of k, so that the sum cancels by less than a factor of two.
struct alignas(8) Line {
  float base, rest;
};

template <int kBlock>
struct LossShared : Tree<kBlock> {
  Line lines[Tree<kBlock>::kPlaces];
};

// A barrier must follow before the lines are read.
template <int kBlock>
__device__ void BuildLines(int count, LossShared<kBlock> *shared) {
  double sums[kItems], sum = 0, before;
  const int first = threadIdx.x * kItems;
#pragma unroll
  for (int item = 0; item < kItems; ++item) {
    if (first + item < count) sum += shared->sorted[first + item];
    sums[item] = sum;
  }
  typename Tree<kBlock>::Scan(shared->scratch.scan).ExclusiveSum(sum, before);
  if (threadIdx.x == 0) shared->lines[0] = {0, 0};
#pragma unroll
  for (int item = 0; item < kItems; ++item) {
    const int k = first + item + 1;
    if (k > count) break;
    const float base = shared->sorted[(1 << (31 - __clz(k))) - 1];
    shared->lines[k] = {base, static_cast<float>(static_cast<double>(k) * base - (before + sums[item]))};
  }
}

// The sum of every thread's value, known to all. A barrier must separate it from earlier uses of the tree.
template <int kBlock>
__device__ double BlockSum(double value, Tree<kBlock> *tree) {
  const double sum = typename Tree<kBlock>::Sum(tree->scratch.sum).Sum(value);
  if (threadIdx.x == 0) tree->total = sum;
  __syncthreads();
  return tree->total;
}

// What is not finite in a piece.
template <int kBlock, class T, bool kSlice>
__device__ __noinline__ int FindFlags(const Row<T, kSlice> &row, int64_t begin, int64_t end, Tree<kBlock> *tree) {
  int mine = 0;
  ForEachVector<kBlock>(row, begin, end, 0, tree, [&](int64_t, const auto &scores, uint32_t excluded) {
    for (int e = 0; e < Vector<T>::kSize; ++e) {
      if (!(excluded >> e & 1)) mine |= FlagsOfOther(scores[e]);
    }
  });
  for (int64_t j = threadIdx.x; j < row.num_targets; j += kBlock) mine |= FlagsOfTarget(TargetScore(row, j));
  int flags = 0;
  for (int flag = 1; flag <= kAllFlags; flag *= 2) {
    if (__syncthreads_or(mine & flag)) flags |= flag;
  }
  return flags;
}

// The sum of a piece from its formula in double: for scores so large that float32 overflows on the way, as
// those of float16 never are.
template <int kBlock, bool kSlice>
__device__ __noinline__ double SumInDouble(const Row<float, kSlice> &row, int64_t begin, int64_t end,
                                           Tree<kBlock> *tree) {
  double sum = 0;
  ForEachVector<kBlock>(row, begin, end, -kInfinity, tree, [&](int64_t, const auto &scores, uint32_t) {
    for (int64_t j = 0; j < row.num_targets; ++j) {
      const double margin = 1.0 - TargetScore(row, j);
      for (float score : scores) sum += fmax(0.0, margin + score);
    }
  });
  return BlockSum<kBlock>(sum, tree);
}

template <int kBlock, class T, bool kSlice>
__device__ PartialSum SumOfPiece(const Problem<T, kSlice> &problem, int64_t index, int64_t piece,
                                 LossShared<kBlock> *shared) {
  const auto row = ReadRow<kBlock>(problem, index, shared);
  if (row.out_of_range) return {0, kNan};
  if (row.num_targets == 0) return {0, 0};
  const int64_t begin = piece * problem.piece;
  const int64_t end = begin + problem.piece < row.classes ? begin + problem.piece : row.classes;
  const bool few = HasFewPairs(row.num_targets, AllClasses(row));
  constexpr int kSize = Vector<T>::kSize;
  double sum = 0;
  float check = 0;  // 0, or NaN once a score is not finite
  for (int64_t first = 0; first < row.num_targets; first += Tree<kBlock>::kMost) {
    __syncthreads();
    const auto count = static_cast<int>(TreeCount<kBlock>(row.num_targets - first));
    for (int j = threadIdx.x; j < count; j += kBlock) check += Threshold(TargetScore(row, first + j)) * 0.0f;
    const int levels = BuildTargetTree<kBlock>(row, first, count, shared);
    if (!few) BuildLines<kBlock>(count, shared);
    ForEachVector<kBlock>(row, begin, end, -FLT_MAX, shared, [&](int64_t, float (&scores)[kSize], uint32_t) {
#pragma unroll
      for (int e = 0; e < kSize; ++e) {
        check += scores[e] * 0.0f;
        scores[e] = fmaxf(scores[e], -FLT_MAX);
      }
      if (few) {
        for (int j = 0; j < count; ++j) {
          const float threshold = shared->sorted[j];
#pragma unroll
          for (int e = 0; e < kSize; ++e) sum += fmaxf(scores[e] - threshold, 0.0f);
        }
        return;
      }
      int ranks[kSize];
      Rank(shared->nodes, levels, scores, ranks);
      float hinges = 0;
#pragma unroll
      for (int e = 0; e < kSize; ++e) {
        const Line line = shared->lines[ranks[e]];
        hinges += fmaf(static_cast<float>(ranks[e]), scores[e] - line.base, line.rest);
      }
      sum += hinges;
    });
  }
  const bool finite = __syncthreads_or(check != 0) == 0;
  const int flags = finite ? 0 : FindFlags<kBlock>(row, begin, end, shared);
  sum = BlockSum<kBlock>(sum, shared);
  if constexpr (std::is_same_v<T, float>) {
    if (!isfinite(sum) && !DecideSum(flags)) sum = SumInDouble<kBlock>(row, begin, end, shared);
  }
  return {sum, flags};
}

// Writes the losses of the rows if `losses` is not null; otherwise the sum of each piece, or, where a row is one piece,
// of each block.
template <class T, int kBlock>
__global__ void __launch_bounds__(kBlock, kResidentThreads / kBlock)
    LossKernel(Problem<T> problem, T *losses, PartialSum *partials) {
  __shared__ LossShared<kBlock> shared;
  double total = 0;
  for (int64_t item = blockIdx.x; item < problem.rows * problem.pieces; item += gridDim.x) {
    const int64_t index = item / problem.pieces;
    const PartialSum sum = SumOfPiece<kBlock>(problem, index, item % problem.pieces, &shared);
    const double loss = RowSum(sum) / static_cast<double>(problem.classes);
    total += loss;
    if (threadIdx.x == 0 && losses != nullptr) Round(loss, &losses[index]);
    if (kMayCut<kBlock> && threadIdx.x == 0 && problem.pieces > 1) partials[item] = sum;
  }
  if (threadIdx.x == 0 && losses == nullptr && problem.pieces == 1) partials[blockIdx.x] = {total, 0};
}

// Adds up `groups` groups of `pieces` partial sums each. A group's sum is divided by `classes`; the groups' losses are
// written, or added and divided by `rows`.
template <class T, int kBlock>
__global__ void __launch_bounds__(kBlock, kResidentThreads / kBlock)
    FinishLossKernel(const PartialSum *partials, int64_t groups, int64_t pieces, double classes, double rows,
                     bool reduce, T *loss) {
  __shared__ typename Tree<kBlock>::Sum::TempStorage shared;
  double total = 0;
  for (int64_t group = threadIdx.x; group < groups; group += kBlock) {
    PartialSum sum = {0, 0};
    for (int64_t piece = 0; piece < pieces; ++piece) {
      sum.sum += partials[group * pieces + piece].sum;
      sum.flags |= partials[group * pieces + piece].flags;
    }
    const double group_loss = RowSum(sum) / classes;
    if (!reduce) Round(group_loss, &loss[group]);
    total += group_loss;
  }
  if (!reduce) return;
  total = typename Tree<kBlock>::Sum(shared).Sum(total);  // known to the first thread
  if (threadIdx.x == 0) Round(total / rows, loss);
}

}  // namespace
}  // namespace mlml
