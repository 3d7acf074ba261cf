// The gradient: each class's number of active targets is its rank, and each target's number of active classes is read
// off a histogram of the ranks. It is made of integers, so that the order in which threads count does not matter.
#pragma once

#include <cmath>

#include "tree.cuh"

namespace mlml {
namespace {

// Counters of one row, for the ranks of its classes.
constexpr int kCounters = kThreads * kItems;

template <int kBlock>
struct GradientShared : Tree<kBlock> {
  // The number of classes of each rank, or after AddUp, of that rank or a higher one. Threads of a warp that meet the
  // same rank count apart, in `ways` counters beside each other, as far as there is room.
  static constexpr int kRoom = 2 * Tree<kBlock>::kPlaces;
  uint32_t counts[kRoom];
  float value[Tree<kBlock>::kPlaces];  // [k]: the gradient of a class that is active with k targets
};

// Writes consecutive gradients, those whose bit in `excluded` is not set.
template <class T, int kSize>
__device__ void Store(const float (&values)[kSize], uint32_t excluded, bool aligned, T *to) {
  Vector<T> vector;
#pragma unroll
  for (int e = 0; e < kSize; ++e) Round(values[e], &vector.values[e]);
  if (excluded == 0 && aligned) {
    *reinterpret_cast<Vector<T> *>(to) = vector;
    return;
  }
#pragma unroll
  for (int e = 0; e < kSize; ++e) {
    if (!(excluded >> e & 1)) to[e] = vector.values[e];
  }
}

template <int kBlock, class T>
__device__ void Fill(T *gradient, int64_t begin, int64_t end, double value) {
  for (int64_t i = begin + threadIdx.x; i < end; i += kBlock) Round(value, &gradient[i]);
}

// The counts of the targets' tree, each the sum of `ways` counters, become counts of that rank or a higher one.
template <int kBlock>
__device__ void AddUp(int count, int ways, GradientShared<kBlock> *shared) {
  uint32_t mine[kItems], sum = 0, before;
#pragma unroll
  for (int item = 0; item < kItems; ++item) {  // from the highest rank down
    const int rank = count - (static_cast<int>(threadIdx.x) * kItems + item);
    for (int way = 0; rank > 0 && way < ways; ++way) sum += shared->counts[rank * ways + way];
    mine[item] = sum;
  }
  typename Tree<kBlock>::ScanCounts(shared->scratch.scan_counts).ExclusiveSum(sum, before);
  __syncthreads();
#pragma unroll
  for (int item = 0; item < kItems; ++item) {
    const int rank = count - (static_cast<int>(threadIdx.x) * kItems + item);
    if (rank > 0) shared->counts[rank] = before + mine[item];
  }
  __syncthreads();
}

// The gradients of the targets: counts[k] is the number of other classes whose rank is k or higher.
template <int kBlock, class T>
__device__ void StoreTargets(const Row<T> &row, int levels, double scale, GradientShared<kBlock> *shared, T *gradient) {
  for (int64_t j = threadIdx.x; j < row.num_targets; j += kBlock) {
    const int32_t target = row.labels[j];
    int64_t times = 0;
    for (int64_t other = 0; other < row.num_targets; ++other) times += row.labels[other] == target;
    const float threshold[1] = {Threshold(TargetScore(row, j))};
    int less[1];
    Rank(shared->nodes, levels, threshold, less);
    const int64_t active = shared->counts[less[0] + 1];
    Round(-static_cast<double>(times * active) * scale, &gradient[target]);
  }
}

// A piece of a row whose targets fit one tree: writes the gradient of the other classes, and counts their ranks.
// Returns whether it has a NaN.
template <int kBlock, class T, bool kSlice>
__device__ bool GradientOfOthers(const Row<T, kSlice> &row, int64_t begin, int64_t end, int levels, int ways,
                                 double scale, GradientShared<kBlock> *shared, T *gradient) {
  constexpr int kSize = Vector<T>::kSize;
  const auto count = static_cast<int>(row.num_targets);
  for (int k = threadIdx.x; k <= count; k += kBlock) {
    T rounded;
    Round(k * scale, &rounded);
    shared->value[k] = ToFloat(rounded);
  }
  for (int i = threadIdx.x; i < (count + 1) * ways; i += kBlock) shared->counts[i] = 0;
  const int way = static_cast<int>(threadIdx.x) & (ways - 1);
  // Where a vector of scores is aligned, so is one of gradients.
  const bool aligned = (reinterpret_cast<uintptr_t>(row.scores) ^ reinterpret_cast<uintptr_t>(gradient)) % 16 == 0;
  bool has_nan = false;
  ForEachVector<kBlock>(row, begin, end, -kInfinity, shared, [&](int64_t i, const auto &scores, uint32_t excluded) {
    int ranks[kSize];
    float values[kSize];
    Rank(shared->nodes, levels, scores, ranks);
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      has_nan = has_nan || isnan(scores[e]);
      values[e] = shared->value[ranks[e]];
      if (ranks[e] > 0) atomicAdd(&shared->counts[ranks[e] * ways + way], 1u);
    }
    Store(values, excluded, aligned, gradient + i);
  });
  return __syncthreads_or(has_nan) != 0;
}

// A piece of a row with more targets than one tree holds: each class looks up the targets, tree by tree, and each
// target all other classes, so that the pieces need no counters in common; of a slice, it leaves the targets alone.
// Returns whether it saw a NaN.
template <int kBlock, class T, bool kSlice>
__device__ __noinline__ bool GradientOfMany(const Row<T, kSlice> &row, int64_t begin, int64_t end, double scale,
                                            GradientShared<kBlock> *shared, T *gradient) {
  constexpr int kMost = Tree<kBlock>::kMost;
  constexpr int kMine = 4;
  constexpr int kClasses = kMine * kBlock;
  static_assert(kClasses <= GradientShared<kBlock>::kRoom, "each class has a counter");
  bool has_nan = false;
  for (int64_t tile = begin; tile < end; tile += kClasses) {
    for (int i = threadIdx.x; i < kClasses; i += kBlock) shared->counts[i] = 0;
    __syncthreads();
    for (int64_t j = threadIdx.x; j < row.num_targets; j += kBlock) {
      const int64_t i = row.labels[j] - FirstClass(row) - tile;
      if (i >= 0 && i < kClasses) atomicAdd(&shared->counts[i], 1u);
    }
    __syncthreads();
    float score[kMine];    // of another class; of a target, the threshold with its sign changed
    int64_t times[kMine];  // that the class is a target
    int64_t active[kMine] = {};
    bool any_target = false;
#pragma unroll
    for (int m = 0; m < kMine; ++m) {
      const int64_t i = tile + m * kBlock + threadIdx.x;
      score[m] = i < end ? ToFloat(row.scores[i]) : -kInfinity;
      times[m] = shared->counts[m * kBlock + threadIdx.x];
      has_nan = has_nan || isnan(score[m]);
      if (times[m] == 0) continue;
      any_target = any_target || i < end;
      score[m] = -Threshold(score[m]);
    }
    const auto add_ranks = [&](int levels, bool to_targets) {
      __syncthreads();
      int ranks[kMine];
      Rank(shared->nodes, levels, score, ranks);
#pragma unroll
      for (int m = 0; m < kMine; ++m) {
        if ((times[m] > 0) == to_targets) active[m] += ranks[m];
      }
    };
    for (int64_t first = 0; first < row.num_targets; first += kMost) {
      __syncthreads();
      const auto count = static_cast<int>(TreeCount<kBlock>(row.num_targets - first));
      add_ranks(BuildTargetTree<kBlock>(row, first, count, shared), false);
    }
    // x_i > q exactly if -x_i < -q: the ranks of -q among the -x_i of the other classes are what is asked for.
    const bool search_classes = !kSlice && __syncthreads_or(any_target) != 0;
    for (int64_t first = 0; search_classes && first < row.classes; first += kMost) {
      const auto count = static_cast<int>(TreeCount<kBlock>(row.classes - first));
      MarkTargets<kBlock>(row, first, count, shared);
      const auto negated_other = [&](int i) {
        if (shared->is_target[i / 32] >> (i % 32) & 1) return kInfinity;
        const float other = ToFloat(row.scores[first + i]);
        return isnan(other) ? kInfinity : -other;
      };
      add_ranks(BuildTree<kBlock>(count, negated_other, shared), true);
    }
#pragma unroll
    for (int m = 0; m < kMine; ++m) {
      const int64_t i = tile + m * kBlock + threadIdx.x;
      const double pairs = times[m] > 0 ? -static_cast<double>(times[m]) * active[m] : static_cast<double>(active[m]);
      if (i < end) Round(pairs * scale, &gradient[i]);
    }
  }
  return __syncthreads_or(has_nan) != 0;
}

// How many counters a rank has.
template <int kBlock>
__device__ int Ways(int64_t count) {
  int ways = 32;
  while ((count + 1) * ways > GradientShared<kBlock>::kRoom) ways /= 2;
  return ways;
}

template <class T>
struct Scale {
  const T *dout;  // of each row, or of all
  bool per_row;
  double divisor;
  __device__ double Of(int64_t row) const { return ToFloat(dout[per_row ? row : 0]) / divisor; }
};

// Writes the gradient. Where a row is in several pieces, the targets' and the NaNs' are left to FinishGradientKernel,
// which finds the row's counts in counters[row * kCounters + k] and in [0] whether there is a NaN.
template <class T, int kBlock>
__global__ void __launch_bounds__(kBlock, kResidentThreads / kBlock)
    GradientKernel(Problem<T> problem, Scale<T> scale_of, uint32_t *counters, T *gradients) {
  __shared__ GradientShared<kBlock> shared;
  for (int64_t item = blockIdx.x; item < problem.rows * problem.pieces; item += gridDim.x) {
    const int64_t index = item / problem.pieces;
    const int64_t begin = item % problem.pieces * problem.piece;
    const int64_t end = begin + problem.piece < problem.classes ? begin + problem.piece : problem.classes;
    T *gradient = gradients + index * problem.classes;
    uint32_t *row_counters = counters + index * kCounters;
    const Row<T> row = ReadRow<kBlock>(problem, index, &shared);
    if (row.out_of_range || row.num_targets == 0) {
      Fill<kBlock>(gradient, begin, end, row.out_of_range ? NAN : 0.0);
      continue;
    }
    const double scale = scale_of.Of(index);
    const bool many = row.num_targets > Tree<kBlock>::kMost;
    const int ways = Ways<kBlock>(row.num_targets);
    const auto count = static_cast<int>(row.num_targets);
    int levels = 0;
    bool has_nan = false;
    if (many) {
      has_nan = GradientOfMany<kBlock>(row, begin, end, scale, &shared, gradient);
    } else {
      for (int j = threadIdx.x; j < count; j += kBlock) has_nan = has_nan || isnan(TargetScore(row, j));
      levels = BuildTargetTree<kBlock>(row, 0, count, &shared);
      has_nan = __syncthreads_or(has_nan) != 0;
      has_nan = GradientOfOthers<kBlock>(row, begin, end, levels, ways, scale, &shared, gradient) || has_nan;
    }
    if (kMayCut<kBlock> && problem.pieces > 1) {
      if (threadIdx.x == 0 && has_nan) atomicOr(&row_counters[0], 1u);
      for (int k = 1 + threadIdx.x; !many && k <= count; k += kBlock) {
        uint32_t sum = 0;
        for (int way = 0; way < ways; ++way) sum += shared.counts[k * ways + way];
        if (sum > 0) atomicAdd(&row_counters[k], sum);
      }
    } else if (has_nan) {
      Fill<kBlock>(gradient, begin, end, NAN);
    } else if (!many) {
      AddUp<kBlock>(count, ways, &shared);
      StoreTargets<kBlock>(row, levels, scale, &shared, gradient);
    }
  }
}

template <class T, int kBlock>
__global__ void __launch_bounds__(kBlock, kResidentThreads / kBlock)
    FinishGradientKernel(Problem<T> problem, Scale<T> scale_of, const uint32_t *counters, T *gradients) {
  __shared__ GradientShared<kBlock> shared;
  const int64_t index = blockIdx.x;
  T *gradient = gradients + index * problem.classes;
  const Row<T> row = ReadRow<kBlock>(problem, index, &shared);
  const uint32_t *row_counters = counters + index * kCounters;
  if (row.out_of_range || row.num_targets == 0) return;
  if (row_counters[0] != 0) {
    Fill<kBlock>(gradient, 0, row.classes, NAN);
    return;
  }
  if (row.num_targets > Tree<kBlock>::kMost) return;
  const auto count = static_cast<int>(row.num_targets);
  const int levels = BuildTargetTree<kBlock>(row, 0, count, &shared);
  for (int k = threadIdx.x; k <= count; k += kBlock) shared.counts[k] = row_counters[k];
  __syncthreads();
  AddUp<kBlock>(count, 1, &shared);
  StoreTargets<kBlock>(row, levels, scale_of.Of(index), &shared, gradient);
}

}  // namespace
}  // namespace mlml
