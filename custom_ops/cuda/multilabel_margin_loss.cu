// The multi-label margin loss and its gradient on a GPU. cpu/multilabel_margin_loss.cpp has the definitions.
//
// Each block of threads works on a piece of a row: it sorts the thresholds of the row's targets into a search tree in
// shared memory, then reads the piece's scores once. Partial results are integers, or sums that one thread adds in a
// fixed order: the same input gives the same bits every time, on every GPU.
#include <cuda_fp16.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdlib>
#include <cub/block/block_merge_sort.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <stdexcept>
#include <string>

#include "../entry_points.h"

namespace mlml {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Who works on what. It depends on the shapes alone, not on the GPU.

constexpr int kThreads = 256;  // of a block, or, where the rows are short,
constexpr int kFewThreads = 32;
// How many threads a multiprocessor is to run at once: it limits the registers that each may have.
constexpr int kResidentThreads = 1024;
constexpr int64_t kShortRow = 128;  // classes
// Few rows are cut into pieces, of kLeastPiece classes at least: until the blocks fill a GPU once, and, if a block then
// has more than kLongPiece classes, further, so that a last round of blocks that does not fill it costs little.
constexpr int64_t kBlocksOfOneRound = 512;
constexpr int64_t kBlocksOfManyRounds = 2048;
constexpr int64_t kLeastPiece = 2048;
constexpr int64_t kLongPiece = 16384;
// As many blocks write a partial sum of the loss, and as many rows have counters for their gradient, at most.
constexpr int64_t kMaxBlocks = 4096;
constexpr int64_t kMaxSharedRows = kBlocksOfManyRounds / 2;
// Each thread sorts this many thresholds; the tree has one place less.
constexpr int kItems = 4;
constexpr int kCounters = kThreads * kItems;
// Classes whose membership in the targets is known at a time.
constexpr int kTile = 32768;
// Up to here the terms of the loss are computed one by one and added in double.
constexpr int64_t kFewPairs = 1024;

template <class T>
struct Problem {
  const T *input;
  const int32_t *target;
  int64_t rows, classes, labels;
  int64_t pieces, piece;  // each row is in `pieces` pieces of `piece` classes
};

// What a piece, or a block, adds to the loss.
struct PartialSum {
  double sum;
  int64_t flags;
};

// What a piece found that is not finite. "Other" classes are those that are not targets.
enum Flags : int {
  kNan = 1,  // also a target out of range
  kHighTarget = 2,
  kLowTarget = 4,
  kHighOther = 8,
  kLowOther = 16,
  kAnyOther = 32,
};
constexpr int kAllFlags = 63;

// The memory that MindSpore lends the kernels, in bytes. Its size is fixed because MindSpore asks for it only once,
// also where shapes are dynamic.
constexpr size_t kLossWorkspace = kMaxBlocks * sizeof(PartialSum);
constexpr size_t kGradientWorkspace = kMaxSharedRows * kCounters * sizeof(uint32_t);

// ---------------------------------------------------------------------------------------------------------------------
// Scores

constexpr float kInfinity = INFINITY;

__device__ inline float ToFloat(float value) { return value; }
__device__ inline float ToFloat(__half value) { return __half2float(value); }
__device__ inline void Round(double value, float *to) { *to = static_cast<float>(value); }
__device__ inline void Round(double value, __half *to) { *to = __double2half(value); }

// As many scores as one load instruction reads.
template <class T>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

// A row and its targets, labels[0..num_targets).
template <class T>
struct Row {
  const T *scores;
  const int32_t *labels;
  int64_t classes;
  int64_t num_targets;
  bool out_of_range;  // a target is not a class
};

// Reads the labels up to the first negative one.
template <int kBlock, class T, class Shared>
__device__ Row<T> ReadRow(const Problem<T> &problem, int64_t index, Shared *shared) {
  Row<T> row = {problem.input + index * problem.classes, problem.target + index * problem.labels, problem.classes, 0,
                false};
  bool more = true;
  while (more && row.num_targets < problem.labels) {
    const int64_t j = row.num_targets + threadIdx.x;
    const int32_t label = j < problem.labels ? row.labels[j] : -1;
    if (threadIdx.x == 0) shared->end = kBlock;
    __syncthreads();
    if (label < 0) atomicMin(&shared->end, static_cast<int>(threadIdx.x));
    __syncthreads();
    const int end = shared->end;
    const bool bad = static_cast<int>(threadIdx.x) < end && label >= row.classes;
    row.out_of_range = __syncthreads_or(bad) != 0 || row.out_of_range;
    row.num_targets += end;
    more = end == kBlock;
  }
  return row;
}

// Where -(1 - p) + x is greater than 0, in float32: for x greater than this.
template <class T>
__device__ float Threshold(const Row<T> &row, int64_t j) {
  return -(1.0f - ToFloat(row.scores[row.labels[j]]));
}

// Sets the bits of those of the classes [first, first + count) that are targets.
template <int kBlock, class T, class Shared>
__device__ void MarkTargets(const Row<T> &row, int64_t first, int count, Shared *shared) {
  __syncthreads();
  for (int word = threadIdx.x; word < (count + 31) / 32; word += kBlock) shared->is_target[word] = 0;
  __syncthreads();
  for (int64_t j = threadIdx.x; j < row.num_targets; j += kBlock) {
    const int64_t bit = row.labels[j] - first;
    if (bit >= 0 && bit < count) atomicOr(&shared->is_target[bit / 32], 1u << (bit % 32));
  }
  __syncthreads();
}

// Calls use(i, scores, absent) for the classes [begin, end), with several consecutive scores at once. Bit b of `absent`
// says that class i + b is a target or not in the range; its score is given as `stand_in`.
template <int kBlock, class T, class Shared, class Use>
__device__ void ForEachVector(const Row<T> &row, int64_t begin, int64_t end, float stand_in, Shared *shared, Use use) {
  constexpr int kSize = Vector<T>::kSize;
  constexpr int kStride = kBlock * kSize;
  static_assert(kTile % kStride == 0 && 32 % kSize == 0, "the bits of a vector are in one word");
  const auto inside = [&](int64_t i) { return i >= begin && i + kSize <= end; };
  const auto load = [&](int64_t i) {
    Vector<T> vector = {};
    if (inside(i)) {
      vector = *reinterpret_cast<const Vector<T> *>(row.scores + i);
    } else {
#pragma unroll
      for (int e = 0; e < kSize; ++e) {
        if (i + e >= begin && i + e < end) vector.values[e] = row.scores[i + e];
      }
    }
    return vector;
  };
  const auto before = static_cast<int64_t>(reinterpret_cast<uintptr_t>(row.scores + begin) % sizeof(Vector<T>));
  for (int64_t tile = begin - before / static_cast<int64_t>(sizeof(T)); tile < end; tile += kTile) {
    MarkTargets<kBlock>(row, tile, kTile, shared);
    int bit = threadIdx.x * kSize;
    Vector<T> next = load(tile + bit), after_next = load(tile + bit + kStride);
    for (; bit < kTile && tile + bit < end; bit += kStride) {
      const int64_t i = tile + bit;
      const Vector<T> vector = next;
      next = after_next;
      if (bit + 2 * kStride < kTile) after_next = load(i + 2 * kStride);  // arrives while two vectors are worked on
      uint32_t absent = shared->is_target[bit / 32] >> (bit % 32) & ((1u << kSize) - 1);
      if (!inside(i)) {
#pragma unroll
        for (int e = 0; e < kSize; ++e) {
          if (i + e < begin || i + e >= end) absent |= 1u << e;
        }
      }
      float scores[kSize];
#pragma unroll
      for (int e = 0; e < kSize; ++e) scores[e] = absent >> e & 1 ? stand_in : ToFloat(vector.values[e]);
      use(i, scores, absent);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The search tree

// What every kernel has in shared memory.
template <int kBlock>
struct Tree {
  static constexpr int kPlaces = kBlock * kItems;
  static constexpr int kMost = kPlaces - 1;  // thresholds in one tree
  using Sort = cub::BlockMergeSort<float, kBlock, kItems>;
  using Scan = cub::BlockScan<double, kBlock>;
  using Sum = cub::BlockReduce<double, kBlock>;
  using ScanCounts = cub::BlockScan<uint32_t, kBlock>;
  union {
    typename Sort::TempStorage sort;
    typename Scan::TempStorage scan;
    typename Sum::TempStorage sum;
    typename ScanCounts::TempStorage scan_counts;
  } scratch;
  float sorted[kPlaces];  // padded by +inf
  float nodes[kPlaces];   // level d is in [2^d, 2^(d + 1)): no two nodes of a level up to 5 share a bank
  uint32_t is_target[kTile / 32];
  double total;
  int end;
};

struct Less {
  __device__ bool operator()(float a, float b) const { return a < b; }
};

// Sorts value(0..count) and builds the tree; returns the number of its levels. No value is NaN.
template <int kBlock, class Value>
__device__ int BuildTree(int count, Value value, Tree<kBlock> *tree) {
  constexpr int kPlaces = Tree<kBlock>::kPlaces;
  const int thread = threadIdx.x;
  __syncthreads();
  if (count <= kBlock) {  // each thread counts those before its own
    const float mine = thread < count ? value(thread) : kInfinity;
    tree->nodes[thread] = mine;
    for (int i = thread; i < kPlaces; i += kBlock) tree->sorted[i] = kInfinity;
    __syncthreads();
    int before = 0;
    for (int i = 0; i < count; ++i) {
      const float other = tree->nodes[i];
      before += other < mine || (other == mine && i < thread);
    }
    if (thread < count) tree->sorted[before] = mine;
  } else {
    float keys[kItems];
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      const int j = item * kBlock + thread;
      keys[item] = j < count ? value(j) : kInfinity;
    }
    typename Tree<kBlock>::Sort(tree->scratch.sort).Sort(keys, Less());
#pragma unroll
    for (int item = 0; item < kItems; ++item) tree->sorted[thread * kItems + item] = keys[item];
  }
  __syncthreads();
  const int levels = 32 - __clz(count);
  for (int node = thread + 1; node < 1 << levels; node += kBlock) {
    const int level = 31 - __clz(node);
    tree->nodes[node] = tree->sorted[((2 * (node - (1 << level)) + 1) << (levels - 1 - level)) - 1];
  }
  __syncthreads();
  return levels;
}

// How many values of the tree are less than each score.
template <int kSize>
__device__ void Rank(const float *nodes, int levels, const float (&scores)[kSize], int (&ranks)[kSize]) {
#pragma unroll
  for (int e = 0; e < kSize; ++e) ranks[e] = 1;
  for (int level = 0; level < levels; ++level) {
#pragma unroll
    for (int e = 0; e < kSize; ++e) ranks[e] = 2 * ranks[e] + (scores[e] > nodes[ranks[e]] ? 1 : 0);
  }
#pragma unroll
  for (int e = 0; e < kSize; ++e) ranks[e] -= 1 << levels;
}

// The tree of the thresholds of targets [first, first + count).
template <int kBlock, class T>
__device__ int BuildTargetTree(const Row<T> &row, int64_t first, int count, Tree<kBlock> *tree) {
  return BuildTree<kBlock>(
      count,
      [&](int j) {
        const float threshold = Threshold(row, first + j);
        return isnan(threshold) ? kInfinity : threshold;  // the row's result is NaN whatever stands here
      },
      tree);
}

template <int kBlock>
__device__ int64_t TreeCount(int64_t left) {
  return left < Tree<kBlock>::kMost ? left : Tree<kBlock>::kMost;
}

// ---------------------------------------------------------------------------------------------------------------------
// The loss

template <int kBlock>
struct LossShared : Tree<kBlock> {
  // A score that exceeds k thresholds adds k * (score - x) + y. The base x is one of the k: the one at the leading bit
  // of k, so that the sum cancels by less than a factor of two.
  float2 lines[Tree<kBlock>::kPlaces];
};

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
  if (threadIdx.x == 0) shared->lines[0] = make_float2(0, 0);
#pragma unroll
  for (int item = 0; item < kItems; ++item) {
    const int k = first + item + 1;
    if (k > count) break;
    const float base = shared->sorted[(1 << (31 - __clz(k))) - 1];
    shared->lines[k] = make_float2(base, static_cast<float>(static_cast<double>(k) * base - (before + sums[item])));
  }
  __syncthreads();
}

// The sum of every thread's value, known to all.
template <int kBlock>
__device__ double BlockSum(double value, Tree<kBlock> *tree) {
  __syncthreads();
  const double sum = typename Tree<kBlock>::Sum(tree->scratch.sum).Sum(value);
  if (threadIdx.x == 0) tree->total = sum;
  __syncthreads();
  return tree->total;
}

// What is not finite in a piece.
template <int kBlock, class T>
__device__ __noinline__ int FindFlags(const Row<T> &row, int64_t begin, int64_t end, Tree<kBlock> *tree) {
  int mine = 0;
  ForEachVector<kBlock>(row, begin, end, 0, tree, [&](int64_t, const auto &scores, uint32_t absent) {
    for (int e = 0; e < Vector<T>::kSize; ++e) {
      if (absent >> e & 1) continue;
      mine |= kAnyOther;
      if (isnan(scores[e])) mine |= kNan;
      if (scores[e] == kInfinity) mine |= kHighOther;
      if (scores[e] == -kInfinity) mine |= kLowOther;
    }
  });
  for (int64_t j = threadIdx.x; j < row.num_targets; j += kBlock) {
    const float score = ToFloat(row.scores[row.labels[j]]);
    if (isnan(score)) mine |= kNan;
    if (score == kInfinity) mine |= kHighTarget;
    if (score == -kInfinity) mine |= kLowTarget;
  }
  int flags = 0;
  for (int flag = 1; flag <= kAllFlags; flag *= 2) {
    if (__syncthreads_or(mine & flag)) flags |= flag;
  }
  return flags;
}

// The sum of a piece from its formula in double: for scores so large that float32 overflows on the way.
template <int kBlock, class T>
__device__ __noinline__ double SumInDouble(const Row<T> &row, int64_t begin, int64_t end, Tree<kBlock> *tree) {
  double sum = 0;
  ForEachVector<kBlock>(row, begin, end, -kInfinity, tree, [&](int64_t, const auto &scores, uint32_t) {
    for (int64_t j = 0; j < row.num_targets; ++j) {
      const double margin = 1.0 - ToFloat(row.scores[row.labels[j]]);
      for (float score : scores) sum += fmax(0.0, margin + score);
    }
  });
  return BlockSum<kBlock>(sum, tree);
}

template <int kBlock, class T>
__device__ PartialSum SumOfPiece(const Problem<T> &problem, int64_t index, int64_t piece, LossShared<kBlock> *shared) {
  const Row<T> row = ReadRow<kBlock>(problem, index, shared);
  if (row.out_of_range) return {0, kNan};
  if (row.num_targets == 0) return {0, 0};
  const int64_t begin = piece * problem.piece;
  const int64_t end = begin + problem.piece < row.classes ? begin + problem.piece : row.classes;
  const bool few = row.num_targets * row.classes <= kFewPairs;
  constexpr int kSize = Vector<T>::kSize;
  double sum = 0;
  float check = 0;  // 0, or NaN once a score is not finite
  for (int64_t first = 0; first < row.num_targets; first += Tree<kBlock>::kMost) {
    const auto count = static_cast<int>(TreeCount<kBlock>(row.num_targets - first));
    for (int j = threadIdx.x; j < count; j += kBlock) check += Threshold(row, first + j) * 0.0f;
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
        const float2 line = shared->lines[ranks[e]];
        hinges += fmaf(static_cast<float>(ranks[e]), scores[e] - line.x, line.y);
      }
      sum += hinges;
    });
  }
  const bool finite = __syncthreads_or(check != 0) == 0;
  const int flags = finite ? 0 : FindFlags<kBlock>(row, begin, end, shared);
  sum = BlockSum<kBlock>(sum, shared);
  if (!isfinite(sum) && !(flags & (kNan | kHighOther | kLowTarget))) {
    sum = SumInDouble<kBlock>(row, begin, end, shared);
  }
  return {sum, flags};
}

// The sum of the hinges of a row, as the formula gives it for infinities.
__device__ inline double RowSum(PartialSum sum) {
  const auto has = [&](int flags) { return (sum.flags & flags) == flags; };
  if (has(kNan) || has(kHighTarget | kHighOther) || has(kLowTarget | kLowOther)) return NAN;
  if (has(kHighOther)) return kInfinity;
  if (has(kLowTarget)) return has(kAnyOther) ? kInfinity : 0;
  return sum.sum;
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
    if (threadIdx.x == 0 && problem.pieces > 1) partials[item] = sum;
    __syncthreads();
  }
  if (threadIdx.x == 0 && losses == nullptr && problem.pieces == 1) partials[blockIdx.x] = {total, 0};
}

// Adds up `groups` groups of `pieces` partial sums each. A group's sum is divided by `classes`; the groups' losses are
// written, or added and divided by `rows`.
template <class T, int kBlock>
__global__ void __launch_bounds__(kBlock, kResidentThreads / kBlock)
    FinishLossKernel(const PartialSum *partials, int64_t groups, int64_t pieces, double classes, double rows,
                     bool reduce, T *loss) {
  __shared__ Tree<kBlock> shared;
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
  total = BlockSum<kBlock>(total, &shared);
  if (threadIdx.x == 0) Round(total / rows, loss);
}

// ---------------------------------------------------------------------------------------------------------------------
// The gradient

template <int kBlock>
struct GradientShared : Tree<kBlock> {
  // The number of classes of each rank, or after AddUp, of that rank or a higher one. Threads of a warp that meet the
  // same rank count apart, in `ways` counters beside each other, as far as there is room.
  static constexpr int kRoom = 2 * Tree<kBlock>::kPlaces;
  uint32_t counts[kRoom];
  float value[Tree<kBlock>::kPlaces];  // [k]: the gradient of a class that is active with k targets
};

// Writes consecutive gradients, those whose bit in `absent` is not set.
template <class T, int kSize>
__device__ void Store(const float (&values)[kSize], uint32_t absent, bool aligned, T *to) {
  Vector<T> vector;
#pragma unroll
  for (int e = 0; e < kSize; ++e) Round(values[e], &vector.values[e]);
  if (absent == 0 && aligned) {
    *reinterpret_cast<Vector<T> *>(to) = vector;
    return;
  }
#pragma unroll
  for (int e = 0; e < kSize; ++e) {
    if (!(absent >> e & 1)) to[e] = vector.values[e];
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
    const float threshold[1] = {Threshold(row, j)};
    int less[1];
    Rank(shared->nodes, levels, threshold, less);
    const int64_t active = shared->counts[less[0] + 1];
    Round(-static_cast<double>(times * active) * scale, &gradient[target]);
  }
}

// A piece of a row whose targets fit one tree: writes the gradient of the other classes, and counts their ranks.
// Returns whether it has a NaN.
template <int kBlock, class T>
__device__ bool GradientOfOthers(const Row<T> &row, int64_t begin, int64_t end, int levels, int ways, double scale,
                                 GradientShared<kBlock> *shared, T *gradient) {
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
  ForEachVector<kBlock>(row, begin, end, -kInfinity, shared, [&](int64_t i, const auto &scores, uint32_t absent) {
    int ranks[kSize];
    float values[kSize];
    Rank(shared->nodes, levels, scores, ranks);
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      has_nan = has_nan || isnan(scores[e]);
      values[e] = shared->value[ranks[e]];
      if (ranks[e] > 0) atomicAdd(&shared->counts[ranks[e] * ways + way], 1u);
    }
    Store(values, absent, aligned, gradient + i);
  });
  return __syncthreads_or(has_nan) != 0;
}

// A piece of a row with more targets than one tree holds, and without atomics: each class looks up the targets, tree by
// tree, and each target all other classes. Returns whether it saw a NaN.
template <int kBlock, class T>
__device__ __noinline__ bool GradientOfMany(const Row<T> &row, int64_t begin, int64_t end, double scale,
                                            GradientShared<kBlock> *shared, T *gradient) {
  constexpr int kMost = Tree<kBlock>::kMost;
  constexpr int kMine = 4;
  constexpr int kClasses = kMine * kBlock;
  static_assert(kClasses <= GradientShared<kBlock>::kRoom, "each class has a counter");
  bool has_nan = false;
  for (int64_t tile = begin; tile < end; tile += kClasses) {
    __syncthreads();
    for (int i = threadIdx.x; i < kClasses; i += kBlock) shared->counts[i] = 0;
    __syncthreads();
    for (int64_t j = threadIdx.x; j < row.num_targets; j += kBlock) {
      const int64_t i = row.labels[j] - tile;
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
      score[m] = 1.0f - score[m];
    }
    const auto add_ranks = [&](int levels, bool to_targets) {
      int ranks[kMine];
      Rank(shared->nodes, levels, score, ranks);
#pragma unroll
      for (int m = 0; m < kMine; ++m) {
        if ((times[m] > 0) == to_targets) active[m] += ranks[m];
      }
    };
    for (int64_t first = 0; first < row.num_targets; first += kMost) {
      const auto count = static_cast<int>(TreeCount<kBlock>(row.num_targets - first));
      add_ranks(BuildTargetTree<kBlock>(row, first, count, shared), false);
    }
    // x_i > q exactly if -x_i < -q: the ranks of -q among the -x_i of the other classes are what is asked for.
    const bool search_classes = __syncthreads_or(any_target) != 0;
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
  double pairs;  // what it is divided by
  __device__ double Of(int64_t row) const { return ToFloat(dout[per_row ? row : 0]) / pairs; }
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
    __syncthreads();
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
      for (int j = threadIdx.x; j < count; j += kBlock) has_nan = has_nan || isnan(Threshold(row, j));
      levels = BuildTargetTree<kBlock>(row, 0, count, &shared);
      has_nan = __syncthreads_or(has_nan) != 0;
      has_nan = GradientOfOthers<kBlock>(row, begin, end, levels, ways, scale, &shared, gradient) || has_nan;
    }
    if (problem.pieces > 1) {
      if (threadIdx.x == 0 && has_nan) atomicOr(&row_counters[0], 1u);
      for (int k = 1 + threadIdx.x; !many && k <= count; k += kBlock) {
        uint32_t sum = 0;
        for (int way = 0; way < ways; ++way) sum += shared.counts[k * ways + way];
        if (sum > 0) atomicAdd(&row_counters[k], sum);
      }
    } else if (has_nan) {
      __syncthreads();
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

// ---------------------------------------------------------------------------------------------------------------------
// Starting the kernels. Nothing here waits for the GPU, or allocates, unless MLML_CHECK_TARGETS asks for it.

void Check(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA says of a kernel of mindspore_mlml: ") + cudaGetErrorString(error) +
                             ".");
  }
}

template <class... Parameters, class... Arguments>
void Launch(void (*kernel)(Parameters...), int64_t blocks, int threads, cudaStream_t stream, Arguments... arguments) {
  kernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(arguments...);
  Check(cudaGetLastError());
}

// The position, in the whole of `target`, of the first target that is out of range.
template <int kBlock>
__global__ void __launch_bounds__(kBlock, kResidentThreads / kBlock)
    FindOutOfRange(const int32_t *target, int64_t rows, int64_t classes, int64_t labels, unsigned long long *first) {
  __shared__ int ended;
  for (int64_t index = blockIdx.x; index < rows; index += gridDim.x) {
    const int32_t *row = target + index * labels;
    for (int64_t begin = 0; begin < labels; begin += kBlock) {
      const int64_t j = begin + threadIdx.x;
      if (threadIdx.x == 0) ended = kBlock;
      __syncthreads();
      if (j < labels && row[j] < 0) atomicMin(&ended, static_cast<int>(threadIdx.x));
      __syncthreads();
      const int end = ended;
      if (static_cast<int>(threadIdx.x) < end && j < labels && row[j] >= classes) {
        atomicMin(first, static_cast<unsigned long long>(index * labels + j));
      }
      __syncthreads();
      if (end < kBlock) break;
    }
  }
}

// Throws if a target is out of range: for finding mistakes, as it waits for the GPU.
void CheckTargets(const Batch &batch, void *workspace, cudaStream_t stream) {
  const char *wanted = std::getenv("MLML_CHECK_TARGETS");
  if (wanted == nullptr || std::strcmp(wanted, "1") != 0) return;
  auto *first = static_cast<unsigned long long *>(workspace);
  Check(cudaMemsetAsync(first, 0xff, sizeof(*first), stream));
  Launch(FindOutOfRange<kThreads>, std::min(batch.rows, kMaxBlocks), kThreads, stream, batch.target, batch.rows,
         batch.classes, batch.labels, first);
  unsigned long long found;
  Check(cudaMemcpyAsync(&found, first, sizeof(found), cudaMemcpyDeviceToHost, stream));
  Check(cudaStreamSynchronize(stream));
  if (found == ~0ull) return;
  int32_t value;
  Check(cudaMemcpyAsync(&value, batch.target + found, sizeof(value), cudaMemcpyDeviceToHost, stream));
  Check(cudaStreamSynchronize(stream));
  const auto position = static_cast<int64_t>(found);
  FailTarget(batch, position / batch.labels, position % batch.labels, value);
}

template <class T>
Problem<T> Divide(const Batch &batch) {
  const int64_t blocks =
      std::min(std::max(batch.rows * batch.classes / kLongPiece, kBlocksOfOneRound), kBlocksOfManyRounds);
  const int64_t most = (batch.classes + kLeastPiece - 1) / kLeastPiece;
  const int64_t pieces = std::max<int64_t>(std::min(blocks / batch.rows, most), 1);
  const int64_t piece = (batch.classes + pieces - 1) / pieces;
  return {static_cast<const T *>(batch.input), batch.target, batch.rows, batch.classes, batch.labels,
          (batch.classes + piece - 1) / piece, piece};
}

template <class T, int kBlock>
void RunLoss(const Batch &batch, Reduction reduction, T *loss, PartialSum *partials, cudaStream_t stream) {
  const Problem<T> problem = Divide<T>(batch);
  const bool reduce = reduction != Reduction::kNone;
  const int64_t blocks = std::min(problem.rows * problem.pieces, kMaxBlocks);
  const bool write_rows = !reduce && problem.pieces == 1;
  Launch(LossKernel<T, kBlock>, blocks, kBlock, stream, problem, write_rows ? loss : nullptr, partials);
  if (write_rows) return;
  const double rows = reduction == Reduction::kMean ? static_cast<double>(batch.rows) : 1.0;
  const bool by_row = problem.pieces > 1;
  Launch(FinishLossKernel<T, kThreads>, 1, kThreads, stream, partials, by_row ? batch.rows : blocks, problem.pieces,
         by_row ? static_cast<double>(batch.classes) : 1.0, rows, reduce, loss);
}

template <class T, int kBlock>
void RunGradient(const Batch &batch, Scale<T> scale, T *gradient, uint32_t *counters, cudaStream_t stream) {
  const Problem<T> problem = Divide<T>(batch);
  const bool shared = problem.pieces > 1;
  constexpr int64_t kMaxGrid = 1 << 20;
  if (shared) Check(cudaMemsetAsync(counters, 0, batch.rows * kCounters * sizeof(*counters), stream));
  Launch(GradientKernel<T, kBlock>, std::min(problem.rows * problem.pieces, kMaxGrid), kBlock, stream, problem, scale,
         counters, gradient);
  if (shared) Launch(FinishGradientKernel<T, kBlock>, batch.rows, kBlock, stream, problem, scale, counters, gradient);
}

template <class T>
void Loss(const Batch &batch, Reduction reduction, T *loss, void *workspace, cudaStream_t stream) {
  if (batch.rows == 0) {
    if (reduction != Reduction::kNone) Check(cudaMemsetAsync(loss, 0, sizeof(T), stream));
    return;
  }
  CheckTargets(batch, workspace, stream);
  auto *partials = static_cast<PartialSum *>(workspace);
  batch.classes <= kShortRow ? RunLoss<T, kFewThreads>(batch, reduction, loss, partials, stream)
                             : RunLoss<T, kThreads>(batch, reduction, loss, partials, stream);
}

template <class T>
void Gradient(const Batch &batch, Reduction reduction, const T *dout, T *gradient, void *workspace,
              cudaStream_t stream) {
  if (batch.rows == 0) return;
  CheckTargets(batch, workspace, stream);
  const double rows = reduction == Reduction::kMean ? static_cast<double>(batch.rows) : 1.0;
  const Scale<T> scale = {dout, reduction == Reduction::kNone, static_cast<double>(batch.classes) * rows};
  auto *counters = static_cast<uint32_t *>(workspace);
  batch.classes <= kShortRow ? RunGradient<T, kFewThreads>(batch, scale, gradient, counters, stream)
                             : RunGradient<T, kThreads>(batch, scale, gradient, counters, stream);
}

}  // namespace

int Forward(const Arguments &arguments, Reduction reduction, void *stream) {
  arguments.Expect(4);
  const Batch batch = arguments.ReadBatch();
  void *loss = arguments.Read(2, "loss", reduction == Reduction::kNone ? batch.rows : 1);
  void *workspace = arguments.Workspace(3);
  const auto on = static_cast<cudaStream_t>(stream);
  batch.dtype == Dtype::kFloat16 ? Loss(batch, reduction, static_cast<__half *>(loss), workspace, on)
                                 : Loss(batch, reduction, static_cast<float *>(loss), workspace, on);
  return 0;
}

int Backward(const Arguments &arguments, Reduction reduction, void *stream) {
  arguments.Expect(5);
  const Batch batch = arguments.ReadBatch();
  const void *dout = arguments.Read(2, "dout", reduction == Reduction::kNone ? batch.rows : 1);
  void *gradient = arguments.Read(3, "gradient", batch.rows * batch.classes);
  void *workspace = arguments.Workspace(4);
  const auto on = static_cast<cudaStream_t>(stream);
  batch.dtype == Dtype::kFloat16
      ? Gradient(batch, reduction, static_cast<const __half *>(dout), static_cast<__half *>(gradient), workspace, on)
      : Gradient(batch, reduction, static_cast<const float *>(dout), static_cast<float *>(gradient), workspace, on);
  return 0;
}

}  // namespace mlml

// The bytes of the workspace: MindSpore asks for them by way of <Kernel>Init.
MLML_EXPORT int64_t MultilabelMarginLossWorkspace() { return mlml::kLossWorkspace; }
MLML_EXPORT int64_t MultilabelMarginLossGradWorkspace() { return mlml::kGradientWorkspace; }

#define MLML_INIT(NAME, BYTES)                                                    \
  MLML_EXPORT int NAME##Init(int *, int64_t **, const char **, AotExtra *extra) { \
    extra->workspace.assign(1, BYTES);                                            \
    return 0;                                                                     \
  }

#define MLML_INITS(NAME)                              \
  MLML_INIT(NAME##None, mlml::kLossWorkspace)         \
  MLML_INIT(NAME##Mean, mlml::kLossWorkspace)         \
  MLML_INIT(NAME##Sum, mlml::kLossWorkspace)          \
  MLML_INIT(NAME##GradNone, mlml::kGradientWorkspace) \
  MLML_INIT(NAME##GradMean, mlml::kGradientWorkspace) \
  MLML_INIT(NAME##GradSum, mlml::kGradientWorkspace)

MLML_INITS(MultilabelMarginLoss)
MLML_INITS(MultilabelMarginLossFromLabels)
