// A row as a block of threads sees it: its scores, vector by vector, and which of its classes are targets.
//
// Each row is cut into pieces of the same number of classes, and a block of threads works on one piece at a time. A
// tile is the part of a piece whose targets are marked at a time.
#pragma once

#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>

#include "../definition.h"

namespace mlml {
namespace {

constexpr int kThreads = 256;  // of a block, or, where the rows are short,
constexpr int kFewThreads = 32;
// Whether blocks of so many threads may work on a row in several pieces: short rows are never cut.
template <int kBlock>
constexpr bool kMayCut = kBlock != kFewThreads;
// How many threads a multiprocessor is to run at once: it limits the registers that each may have.
constexpr int kResidentThreads = 1024;
// Classes whose membership in the targets is known at a time.
constexpr int kTile = 32768;

// The position of a slice among the classes. It is in the GPU's memory, as are all data that the ranks exchange, and
// unknown to the host.
struct Extent {
  int64_t first_class;
  int64_t all_classes;  // 0 if the ranks do not agree
  int64_t rank;
};

// What a slice has beyond the whole. Which of them a kernel is for is known when it is compiled, so that the whole
// costs nothing more.
template <bool kSlice>
struct ProblemOf {};
template <>
struct ProblemOf<true> {
  const Extent *extent = nullptr;
  const float *target_scores = nullptr;  // rows x num_labels
};

// A batch, and how its rows are divided.
template <class T, bool kSlice = false>
struct Problem : ProblemOf<kSlice> {
  const T *input;
  const int32_t *target;
  int64_t rows, classes, num_labels;
  int64_t pieces, piece;  // each row is in `pieces` pieces of `piece` classes
};

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

template <bool kSlice>
struct RowOf {};
template <>
struct RowOf<true> {
  int64_t first_class, all_classes;
  const float *target_scores;
};

// A row and its targets, labels[0..num_targets).
template <class T, bool kSlice = false>
struct Row : RowOf<kSlice> {
  const T *scores;
  const int32_t *labels;
  int64_t classes;
  int64_t num_targets;
  bool out_of_range;  // a target is not a class
};

// The class that scores[0] is of.
template <class T, bool kSlice>
__device__ int64_t FirstClass(const Row<T, kSlice> &row) {
  if constexpr (kSlice) {
    return row.first_class;
  } else {
    return 0;
  }
}

// How many classes the labels are about.
template <class T, bool kSlice>
__device__ int64_t AllClasses(const Row<T, kSlice> &row) {
  if constexpr (kSlice) {
    return row.all_classes;
  } else {
    return row.classes;
  }
}

// Calls visit(j, label) for each of a row's targets, in one thread; returns their number. A barrier must separate each
// use of *end from the next.
template <int kBlock, class Visit>
__device__ int64_t VisitTargets(const int32_t *labels, int64_t num_labels, int *end, Visit visit) {
  int64_t count = 0;
  for (bool more = true; more && count < num_labels;) {
    const int64_t j = count + threadIdx.x;
    const int32_t label = j < num_labels ? labels[j] : -1;
    if (threadIdx.x == 0 && count == 0) *end = kBlock;  // later it is kBlock already
    __syncthreads();
    if (label < 0) atomicMin(end, static_cast<int>(threadIdx.x));
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < *end) visit(j, label);
    count += *end;
    more = *end == kBlock;
  }
  return count;
}

template <int kBlock, class T, bool kSlice, class Shared>
__device__ Row<T, kSlice> ReadRow(const Problem<T, kSlice> &problem, int64_t index, Shared *shared) {
  Row<T, kSlice> row = {
      {},   problem.input + index * problem.classes, problem.target + index * problem.num_labels, problem.classes, 0,
      false};
  bool bad = false;
  if constexpr (kSlice) {
    row.first_class = problem.extent->first_class;
    row.all_classes = problem.extent->all_classes;
    row.target_scores = problem.target_scores + index * problem.num_labels;
    bad = row.all_classes == 0;
  }
  row.num_targets = VisitTargets<kBlock>(row.labels, problem.num_labels, &shared->end,
                                         [&](int64_t, int32_t label) { bad = bad || label >= AllClasses(row); });
  row.out_of_range = __syncthreads_or(bad) != 0;
  return row;
}

// The score of target j.
template <class T, bool kSlice>
__device__ float TargetScore(const Row<T, kSlice> &row, int64_t j) {
  if constexpr (kSlice) {
    return row.target_scores[j];
  } else {
    return ToFloat(row.scores[row.labels[j]]);
  }
}

// Sets the bits of those of the row's classes [first, first + count) that are targets. A barrier must separate it from
// earlier uses of the bits.
template <int kBlock, class T, bool kSlice, class Shared>
__device__ void MarkTargets(const Row<T, kSlice> &row, int64_t first, int count, Shared *shared) {
  for (int word = threadIdx.x; word < (count + 31) / 32; word += kBlock) shared->is_target[word] = 0;
  __syncthreads();
  for (int64_t j = threadIdx.x; j < row.num_targets; j += kBlock) {
    const int64_t bit = row.labels[j] - FirstClass(row) - first;
    if (bit >= 0 && bit < count) atomicOr(&shared->is_target[bit / 32], 1u << (bit % 32));
  }
  __syncthreads();
}

// Calls use(i, scores, excluded) for the classes [begin, end), with several consecutive scores at once, after a
// barrier. Bit b of `excluded` says that class i + b is a target or not in the range; its score is given as `stand_in`.
template <int kBlock, class T, bool kSlice, class Shared, class Use>
__device__ void ForEachVector(const Row<T, kSlice> &row, int64_t begin, int64_t end, float stand_in, Shared *shared,
                              Use use) {
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
    __syncthreads();
    MarkTargets<kBlock>(row, tile, kTile, shared);
    int bit = threadIdx.x * kSize;
    Vector<T> next = load(tile + bit), after_next = load(tile + bit + kStride);
    for (; bit < kTile && tile + bit < end; bit += kStride) {
      const int64_t i = tile + bit;
      const Vector<T> vector = next;
      next = after_next;
      if (bit + 2 * kStride < kTile) after_next = load(i + 2 * kStride);  // arrives while two vectors are worked on
      uint32_t excluded = shared->is_target[bit / 32] >> (bit % 32) & ((1u << kSize) - 1);
      if (!inside(i)) {
#pragma unroll
        for (int e = 0; e < kSize; ++e) {
          if (i + e < begin || i + e >= end) excluded |= 1u << e;
        }
      }
      float scores[kSize];
#pragma unroll
      for (int e = 0; e < kSize; ++e) scores[e] = excluded >> e & 1 ? stand_in : ToFloat(vector.values[e]);
      use(i, scores, excluded);
    }
  }
}

}  // namespace
}  // namespace mlml
