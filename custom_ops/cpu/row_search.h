// Searching: the ranks of a group's scores among the sorted thresholds, and what a table has for each rank.
//
// The steps of one search wait for each other, so the vectors of a group go down the tree side by side.
#pragma once

#include <type_traits>

#include "row_tile.h"
#include "row_tree.h"

namespace mlml {
namespace MLML_ISA {
namespace {

template <int kSize, int kVectors>
MLML_INLINE void LookUp(const Table<kSize> &table, const Ints (&indices)[kVectors], Floats (&found)[kVectors]) {
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) found[v] = table(indices[v]);
}

// The levels up to kLevel of a top of kTop levels: each has a table of its own for ranks of kTop bits, of which it
// decides one and reads the higher ones.
template <int kTop, int kLevel>
class Top {
 public:
  explicit Top(const Row &row) : upper_(row), nodes_(row.top.data() + (kLevel << kTop)) {}

  template <int kVectors>
  MLML_INLINE void Rank(const Floats (&scores)[kVectors], Ints (&ranks)[kVectors]) const {
    upper_.Rank(scores, ranks);
    Floats thresholds[kVectors];
    LookUp(nodes_, ranks, thresholds);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      ranks[v] = AddIfGreater(ranks[v], 1 << (kTop - 1 - kLevel), scores[v], thresholds[v]);
    }
  }

 private:
  Top<kTop, kLevel - 1> upper_;
  Table<1 << kTop> nodes_;
};

template <int kTop>
class Top<kTop, 0> {
 public:
  explicit Top(const Row &row) : root_(Fill(row.top[0])) {}

  template <int kVectors>
  MLML_INLINE void Rank(const Floats (&scores)[kVectors], Ints (&ranks)[kVectors]) const {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) ranks[v] = AddIfGreater(Ints{}, 1 << (kTop - 1), scores[v], root_);
  }

 private:
  Floats root_;
};

template <int kLevels, bool kIsTop = (kLevels <= kTopLevels)>
class Tree : public Top<kLevels, kLevels - 1> {
 public:
  using Top<kLevels, kLevels - 1>::Top;
};

template <int kLevels>
class Tree<kLevels, false> {
 public:
  explicit Tree(const Row &row) : upper_(row), lowest_(row.tree.data() + (1 << (kLevels - 1))) {}

  template <int kVectors>
  MLML_INLINE void Rank(const Floats (&scores)[kVectors], Ints (&ranks)[kVectors]) const {
    upper_.Rank(scores, ranks);
    Floats thresholds[kVectors];
    LookUp(lowest_, ranks, thresholds);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) ranks[v] = CountGreater(ranks[v] + ranks[v], scores[v], thresholds[v]);
  }

 private:
  Tree<kLevels - 1> upper_;
  Table<1 << (kLevels - 1)> lowest_;
};

// Any deeper tree: the levels below those in registers are looked up in memory.
class DeepTree {
 public:
  explicit DeepTree(const Row &row) : upper_(row), tree_(row.tree.data()), levels_(row.levels) {}

  template <int kVectors>
  MLML_INLINE void Rank(const Floats (&scores)[kVectors], Ints (&ranks)[kVectors]) const {
    upper_.Rank(scores, ranks);
    for (int level = kRegisterLevels; level < levels_; ++level) {
      const float *nodes = tree_ + (int64_t{1} << level);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        ranks[v] = CountGreater(ranks[v] + ranks[v], scores[v], Gather(nodes, ranks[v]));
      }
    }
  }

 private:
  Tree<kRegisterLevels> upper_;
  const float *tree_;
  int levels_;
};

// The sum of the hinges needs a base for each rank: found by the rank as long as there are no more than kBases ranks,
// and by its leading bit otherwise.
constexpr int kBaseLevels = 5;
constexpr int kBases = 1 << kBaseLevels;

// Finds the ranks where each leaf is one threshold.
template <int kVectors, int kLevels, class Source, class Use>
MLML_INLINE void SearchTree(const Tile<Source> &tile, const Row &row, const float *entries, Use &use) {
  const Tree<kLevels> tree(row);
  const Table<1 << kLevels> table(entries);
  for (int64_t i = 0; i < tile.count; i += kVectors * kLanes) {
    Floats scores[kVectors], found[kVectors];
    Ints ranks[kVectors];
    tile.LoadGroup(i, scores);
    tree.Rank(scores, ranks);
    LookUp(table, ranks, found);
    use(i, scores, ranks, found, std::bool_constant<(kLevels <= kBaseLevels)>());
  }
}

// Finds the ranks where the leaves are as wide as a vector: first each score's leaf, then its place there.
template <int kVectors, class Tree, class Source, class Use>
MLML_INLINE void SearchLeaves(const Tile<Source> &tile, const Row &row, const Tree &tree, const float *entries,
                              Use &use) {
  int32_t ranks_of[kTile];
  float scores_of[kTile], found_of[kTile];
  for (int64_t i = 0; i < tile.count; i += kVectors * kLanes) {
    Floats scores[kVectors];
    Ints leaves[kVectors];
    tile.LoadGroup(i, scores);
    tree.Rank(scores, leaves);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      Store(scores_of + i + v * kLanes, scores[v]);
      Store(ranks_of + i + v * kLanes, leaves[v] * kLanes);
    }
  }
  const float *sorted = row.sorted.data();
  for (int64_t i = 0; i < tile.count; ++i) {
    const int64_t leaf = ranks_of[i];
    const int64_t rank = leaf + LanesGreater(Fill(scores_of[i]), Load(sorted + leaf));
    ranks_of[i] = static_cast<int32_t>(rank);
    found_of[i] = entries[rank];
  }
  for (int64_t i = 0; i < tile.count; i += kVectors * kLanes) {
    Floats scores[kVectors], found[kVectors];
    Ints ranks[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      scores[v] = Load(scores_of + i + v * kLanes);
      ranks[v] = Load(ranks_of + i + v * kLanes);
      found[v] = Load(found_of + i + v * kLanes);
    }
    use(i, scores, ranks, found, std::false_type());
  }
}

// Calls use(i, scores, ranks, entries[ranks], whether any rank is less than kBases) for each group of the tile.
template <int kVectors, int kLevels = 1, class Source, class Use>
MLML_INLINE void Search(const Tile<Source> &tile, const Row &row, const float *entries, Use &use) {
  if constexpr (kLevels > kRegisterLevels) {
    SearchLeaves<kVectors>(tile, row, DeepTree(row), entries, use);
  } else if (row.levels != kLevels) {
    Search<kVectors, kLevels + 1>(tile, row, entries, use);
  } else if (row.leaf == 1) {
    SearchTree<kVectors, kLevels>(tile, row, entries, use);
  } else {
    SearchLeaves<kVectors>(tile, row, Tree<kLevels>(row), entries, use);
  }
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
