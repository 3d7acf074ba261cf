// The search tree over the thresholds of a row's targets, in shared memory, and the ranks of scores in it.
//
// The tree is complete, and padded by +inf. A row with more targets than one tree holds has several, one after the
// other.
#pragma once

#include <cub/block/block_merge_sort.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "row.cuh"

namespace mlml {
namespace {

// Each thread sorts this many thresholds; the tree has one place less.
constexpr int kItems = 4;

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

// Sorts value(0..count) and builds the tree; returns the number of its levels. No value is NaN. A barrier must separate
// it from earlier uses of the tree, and one must follow before the nodes are read; what is sorted can be read at once.
template <int kBlock, class Value>
__device__ int BuildTree(int count, Value value, Tree<kBlock> *tree) {
  constexpr int kPlaces = Tree<kBlock>::kPlaces;
  const int thread = threadIdx.x;
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
template <int kBlock, class T, bool kSlice>
__device__ int BuildTargetTree(const Row<T, kSlice> &row, int64_t first, int count, Tree<kBlock> *tree) {
  return BuildTree<kBlock>(count, [&](int j) { return SortableThreshold(TargetScore(row, first + j)); }, tree);
}

template <int kBlock>
__device__ int64_t TreeCount(int64_t left) {
  return left < Tree<kBlock>::kMost ? left : Tree<kBlock>::kMost;
}

}  // namespace
}  // namespace mlml
