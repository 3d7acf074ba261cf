// The loss and the gradient of one row. Compiled once for each instruction set, into the namespace MLML_LEVEL.
//
// The classes are worked on in blocks that fit the first-level cache. Where a block has targets or a remainder, it is
// copied, and scores that are active with nothing stand in for them: the inner loops know neither.
#include "row.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "simd.h"

namespace mlml {
namespace MLML_LEVEL {
namespace {

constexpr int64_t kBlock = 1024;
// How many vectors the inner loops work on side by side: the steps of one wait for each other, those of several do not.
constexpr int kSumVectors = 8;
constexpr int kGradientVectors = 4;
constexpr int64_t kGroup = 8 * kLanes;  // blocks are padded to whole groups
static_assert(kPiece % kBlock == 0 && kBlock % kGroup == 0, "pieces are made of blocks, blocks of groups");

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Up to here the terms of the loss are computed one by one and added in double.
constexpr int64_t kFewPairs = 1024;
// Up to here the gradient compares each score with each threshold instead of searching.
constexpr int64_t kFewTargetsGradient = 8;
// Up to here counting the lesser ones of each sorts the thresholds faster than a radix sort does.
constexpr int64_t kFewToSort = 96;
// The deepest search tree whose levels are looked up in registers.
constexpr int kRegisterLevels = 8;

// Where a block's targets begin in row.by_block.
int64_t BlockBegin(const Row &row, int64_t block) { return block == 0 ? 0 : row.block_ends[block - 1]; }

int64_t Blocks(int64_t classes) { return (classes + kBlock - 1) / kBlock; }

constexpr int64_t kBlocksPerPiece = kPiece / kBlock;

// The block behind a piece's last.
int64_t PieceEnd(int64_t classes, int64_t piece) { return std::min((piece + 1) * kBlocksPerPiece, Blocks(classes)); }

// ---------------------------------------------------------------------------------------------------------------------
// Preparing a row

void ReadTargets(const Batch &batch, int64_t index, Row *row) {
  const int32_t *labels = batch.target + index * batch.labels;
  int64_t count = 0;
  for (; count < batch.labels && labels[count] >= 0; ++count) {
    if (labels[count] >= batch.classes) FailTarget(batch, index, count, labels[count]);
  }
  row->index = index;
  row->targets.assign(labels, labels + count);
}

void GroupByBlock(int64_t classes, Row *row) {
  const auto count = static_cast<int64_t>(row->targets.size());
  row->by_block.resize(count);
  if (classes <= kBlock) {
    row->block_ends.assign(1, count);
    std::iota(row->by_block.begin(), row->by_block.end(), 0);
    return;
  }
  row->block_ends.assign(Blocks(classes), 0);
  for (int32_t target : row->targets) ++row->block_ends[target / kBlock];
  int64_t begin = 0;
  for (int64_t &end : row->block_ends) begin += std::exchange(end, begin);
  for (int64_t j = 0; j < count; ++j) row->by_block[row->block_ends[row->targets[j] / kBlock]++] = j;
}

template <class T>
void ComputeThresholds(const T *input, Row *row) {
  const size_t count = row->targets.size();
  row->thresholds.assign((count + kLanes - 1) / kLanes * kLanes, kInfinity);
  for (size_t j = 0; j < count; ++j) {
    const float score = ToFloat(input[row->targets[j]]);
    const float threshold = -(1.0f - score);
    // With a NaN the row's result is NaN anyway; it must only not disturb the sorting.
    if (threshold == threshold) row->thresholds[j] = threshold;
  }
}

// Sorts by counting, for each, those that are less.
void SortFew(Row *row) {
  const auto count = static_cast<int64_t>(row->targets.size());
  float *sorted = row->sorted.data();
  std::fill_n(sorted, count, -kInfinity);
  for (int64_t j = 0; j < count; ++j) {
    const Floats threshold = Fill(row->thresholds[j]);
    int32_t rank = 0;
    for (int64_t i = 0; i < count; i += kLanes) rank += LanesGreater(threshold, Load(&row->thresholds[i]));
    row->ranks[j] = rank;
    sorted[rank] = row->thresholds[j];
  }
  // Equal thresholds share a rank: the places behind it are theirs too.
  for (int64_t j = 1; j < count; ++j) sorted[j] = std::max(sorted[j], sorted[j - 1]);
}

// Sorts by radix: a byte of the thresholds after the other, from the lowest.
void SortMany(Row *row) {
  constexpr int kBytes = 4, kValues = 256;
  const size_t count = row->targets.size();
  std::vector<SortEntry> &entries = row->entries, &moved = row->moved;
  entries.resize(count);
  moved.resize(count);
  uint32_t ends[kBytes][kValues] = {};
  for (size_t j = 0; j < count; ++j) {
    uint32_t bits;
    std::memcpy(&bits, &row->thresholds[j], sizeof(bits));
    const uint32_t key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    entries[j] = {key, static_cast<int32_t>(j)};
    for (int byte = 0; byte < kBytes; ++byte) ++ends[byte][key >> 8 * byte & 0xff];
  }
  for (int byte = 0; byte < kBytes; ++byte) {
    uint32_t begin = 0;
    for (uint32_t &end : ends[byte]) begin += std::exchange(end, begin);
    for (const SortEntry &entry : entries) moved[ends[byte][entry.key >> 8 * byte & 0xff]++] = entry;
    entries.swap(moved);
  }
  for (size_t place = 0; place < count; ++place) {
    row->sorted.data()[place] = row->thresholds[entries[place].j];
    row->ranks[entries[place].j] = static_cast<int32_t>(place);
  }
}

// Sorts the thresholds into leaves, of one each as long as a tree in registers can tell them apart, and builds the
// tree.
void BuildTree(Row *row) {
  const auto count = static_cast<int64_t>(row->targets.size());
  row->leaf = count < 1 << kRegisterLevels ? 1 : kLanes;
  row->levels = 1;
  while (row->leaf << row->levels <= count) ++row->levels;
  row->sorted.Assign(row->leaf << row->levels, kInfinity);
  float *sorted = row->sorted.data();
  row->ranks.resize(count);
  count <= kFewToSort ? SortFew(row) : SortMany(row);
  row->tree.resize(int64_t{1} << row->levels);
  for (int level = 0; level < row->levels; ++level) {
    const int64_t nodes = int64_t{1} << level;
    const int64_t stride = int64_t{1} << (row->levels - level);
    for (int64_t i = 0; i < nodes; ++i) row->tree[nodes + i] = sorted[(i * stride + stride / 2) * row->leaf - 1];
  }
  const int top = std::min(row->levels, kTopLevels);
  row->top.resize(top << top);
  for (int level = 0; level < top; ++level) {
    const float *nodes = row->tree.data() + (1 << level);
    float *spread = row->top.data() + (level << top);
    for (int i = 0; i < 1 << level; ++i) spread = std::fill_n(spread, 1 << (top - level), nodes[i]);
  }
}

template <class T>
void Prepare(const Batch &batch, int64_t index, int64_t few_targets, Row *row) {
  ReadTargets(batch, index, row);
  row->levels = 0;
  if (row->targets.empty()) return;
  GroupByBlock(batch.classes, row);
  ComputeThresholds(static_cast<const T *>(batch.input) + index * batch.classes, row);
  const bool masked = std::find(row->thresholds.begin(), row->thresholds.end(), -kInfinity) != row->thresholds.end();
  row->absent = masked ? -kInfinity : kLowest;
  if (static_cast<int64_t>(row->targets.size()) <= few_targets) return;
  BuildTree(row);
}

// ---------------------------------------------------------------------------------------------------------------------
// Blocks

// Loads a block of scores, pads it to whole groups, and takes the targets out. False if a score is not finite, also one
// of a target.
template <class T>
bool LoadBlock(const T *input, int64_t classes, const Row &row, int64_t block, float *scores) {
  const int64_t begin = block * kBlock;
  const int64_t count = std::min(kBlock, classes - begin);
  Floats check = {};  // 0, or NaN once a score is infinite or NaN
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Floats score = Load(input + begin + i);
    check += score * 0.0f;
    Store(scores + i, Max(score, Fill(row.absent)));
  }
  float sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += check[lane];
  for (; i < count; ++i) {
    const float score = ToFloat(input[begin + i]);
    sum += score * 0.0f;
    scores[i] = std::max(row.absent, score);
  }
  for (; i % kGroup != 0; ++i) scores[i] = row.absent;
  for (int64_t j = BlockBegin(row, block); j < row.block_ends[block]; ++j) {
    scores[row.targets[row.by_block[j]] - begin] = row.absent;
  }
  return sum == 0;
}

template <class T>
void StoreBlock(const float *values, int64_t count, T *to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(to + i, Load(values + i));
  for (; i < count; ++i) to[i] = FromDouble<T>(values[i]);
}

// A block of scores, without targets and in whole groups, as the inner loops see it.
template <class Source>
struct Block {
  const Source *scores;
  int64_t count;
  const char *next;        // the scores of the next block in memory,
  const char *output;      // the memory that is written when this block is done, if any,
  int64_t size_in_memory;  // and the bytes that one score takes there

  // Loads the group at i, and fetches into the cache what will be needed at i.
  template <int kVectors>
  MLML_INLINE void LoadGroup(int64_t i, Floats (&group)[kVectors]) const {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      group[v] = Load(scores + i + v * kLanes);
      __builtin_prefetch(next + (i + v * kLanes) * size_in_memory);
      if (output != nullptr) __builtin_prefetch(output + (i + v * kLanes) * size_in_memory, 1);
    }
  }
};

// Calls use(block) with a block of the row: as it lies in memory where it can, otherwise, or if told to, a copy in
// which nothing is less than row.absent. False if the copy shows a score that is not finite.
template <class T, class Use>
bool WithBlock(const T *input, int64_t classes, const Row &row, int64_t block, const T *output, bool copy, Use use) {
  const T *scores = input + block * kBlock;
  const int64_t count = std::min(kBlock, classes - block * kBlock);
  const char *next = reinterpret_cast<const char *>(scores + kBlock);
  const char *written = output == nullptr ? nullptr : reinterpret_cast<const char *>(output + block * kBlock);
  if (!copy && count % kGroup == 0 && BlockBegin(row, block) == row.block_ends[block]) {
    use(Block<T>{scores, count, next, written, sizeof(T)});
    return true;
  }
  float copied[kBlock];
  const bool finite = LoadBlock(input, classes, row, block, copied);
  use(Block<float>{copied, (count + kGroup - 1) / kGroup * kGroup, next, written, sizeof(T)});
  return finite;
}

// 0 in every lane as long as only finite scores were added.
class FiniteCheck {
 public:
  template <int kVectors>
  MLML_INLINE void Add(const Floats (&group)[kVectors]) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) check_[v % 2] += group[v] * 0.0f;
  }
  bool Finite() const {
    const Floats check = check_[0] + check_[1];
    float sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) sum += check[lane];
    return sum == 0;
  }

 private:
  Floats check_[2] = {};
};

// ---------------------------------------------------------------------------------------------------------------------
// Searching: the ranks of a group's scores among the sorted thresholds
//
// The steps of one search wait for each other, so the vectors of a group go down the tree side by side.

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
MLML_INLINE void SearchTree(const Block<Source> &block, const Row &row, const float *entries, Use &use) {
  const Tree<kLevels> tree(row);
  const Table<1 << kLevels> table(entries);
  for (int64_t i = 0; i < block.count; i += kVectors * kLanes) {
    Floats scores[kVectors], found[kVectors];
    Ints ranks[kVectors];
    block.LoadGroup(i, scores);
    tree.Rank(scores, ranks);
    LookUp(table, ranks, found);
    use(i, scores, ranks, found, std::bool_constant<(kLevels <= kBaseLevels)>());
  }
}

// Finds the ranks where the leaves are as wide as a vector: first each score's leaf, then its place there.
template <int kVectors, class Tree, class Source, class Use>
MLML_INLINE void SearchLeaves(const Block<Source> &block, const Row &row, const Tree &tree, const float *entries,
                              Use &use) {
  int32_t ranks_of[kBlock];
  float scores_of[kBlock], found_of[kBlock];
  for (int64_t i = 0; i < block.count; i += kVectors * kLanes) {
    Floats scores[kVectors];
    Ints leaves[kVectors];
    block.LoadGroup(i, scores);
    tree.Rank(scores, leaves);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      Store(scores_of + i + v * kLanes, scores[v]);
      Store(ranks_of + i + v * kLanes, leaves[v] * kLanes);
    }
  }
  const float *sorted = row.sorted.data();
  for (int64_t i = 0; i < block.count; ++i) {
    const int64_t leaf = ranks_of[i];
    const int64_t rank = leaf + LanesGreater(Fill(scores_of[i]), Load(sorted + leaf));
    ranks_of[i] = static_cast<int32_t>(rank);
    found_of[i] = entries[rank];
  }
  for (int64_t i = 0; i < block.count; i += kVectors * kLanes) {
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

// Calls use(i, scores, ranks, entries[ranks], whether any rank is less than kBases) for each group of the block.
template <int kVectors, int kLevels = 1, class Source, class Use>
MLML_INLINE void Search(const Block<Source> &block, const Row &row, const float *entries, Use &use) {
  if constexpr (kLevels > kRegisterLevels) {
    SearchLeaves<kVectors>(block, row, DeepTree(row), entries, use);
  } else if (row.levels != kLevels) {
    Search<kVectors, kLevels + 1>(block, row, entries, use);
  } else if (row.leaf == 1) {
    SearchTree<kVectors, kLevels>(block, row, entries, use);
  } else {
    SearchLeaves<kVectors>(block, row, Tree<kLevels>(row), entries, use);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The loss

// Of the k thresholds below a score, the base is the one that is first in the search tree to be below it: it has the
// place of k's leading bit, so the exponent of k as a float finds it in a table that fits every k. Fewer thresholds are
// above the base than not, so that k * (x - base) + rest[k] cancels by less than a factor of two.
uint32_t ExponentField(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits >> 23;
}

template <class T>
void PrepareLoss(const Batch &batch, int64_t index, Row *row) {
  Prepare<T>(batch, index, 0, row);
  if (row->targets.empty()) return;
  row->rest.assign(row->leaf << row->levels, 0);
  row->base.assign(kBases, 0);
  const float *sorted = row->sorted.data();
  const bool by_rank = row->leaf == 1 && row->levels <= kBaseLevels;
  double sum = 0;  // of the k least thresholds
  float base = 0;
  for (size_t k = 1; k <= row->targets.size(); ++k) {
    sum += sorted[k - 1];
    if ((k & (k - 1)) == 0) base = sorted[k - 1];
    row->base[by_rank ? k : ExponentField(static_cast<float>(k)) % kBases] = base;
    row->rest[k] = static_cast<float>(static_cast<double>(k) * base - sum);
  }
}

// Each term of the loss is rounded to float32, as documented, and added in double.
template <class Source>
void SumTerms(const Block<Source> &block, const Row &row, DoubleSum *sum, FiniteCheck *check) {
  for (int64_t i = 0; i < block.count; i += kSumVectors * kLanes) {
    Floats scores[kSumVectors];
    block.LoadGroup(i, scores);
    check->Add(scores);
    for (size_t j = 0; j < row.targets.size(); ++j) {
      const Floats threshold = Fill(row.thresholds[j]);
#pragma GCC unroll 8
      for (int v = 0; v < kSumVectors; ++v) sum->Add(Max(scores[v] - threshold, Floats{}));
    }
  }
}

// Adds up what the classes of a group add to the loss. A score that is infinite or NaN makes the sum infinite or NaN.
struct AddHinges {
  Table<kBases> base;
  DoubleSum total;

  template <bool kByRank>
  MLML_INLINE void operator()(int64_t, const Floats (&scores)[kSumVectors], const Ints (&ranks)[kSumVectors],
                              const Floats (&rest)[kSumVectors], std::bool_constant<kByRank>) {
    Floats hinges[kSumVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kSumVectors; ++v) {
      const Floats rank = ToFloats(ranks[v]);
      const Ints place = kByRank ? ranks[v] : Exponents(rank);
      hinges[v] = rank * (scores[v] - base.Modulo(place)) + rest[v];
    }
#pragma GCC unroll 8
    for (int stride = kSumVectors / 2; stride > 0; stride /= 2) {
#pragma GCC unroll 8
      for (int v = 0; v < stride; ++v) hinges[v] += hinges[v + stride];
    }
    total.Add(hinges[0]);
  }
};

template <class Source>
void SumRanked(const Block<Source> &block, const Row &row, DoubleSum *sum) {
  AddHinges add{Table<kBases>(row.base.data()), *sum};
  Search<kSumVectors>(block, row, row.rest.data(), add);
  *sum = add.total;
}

// The sum of one piece. With `clamp`, classes whose score is -inf add nothing to it.
template <class T>
PieceSum SumScores(const Batch &batch, const Row &row, int64_t piece, bool clamp) {
  PieceSum result;
  if (row.targets.empty()) return result;
  const T *input = static_cast<const T *>(batch.input) + row.index * batch.classes;
  const bool few = static_cast<int64_t>(row.targets.size()) * batch.classes <= kFewPairs;
  DoubleSum sum;
  FiniteCheck check;
  for (int64_t block = piece * kBlocksPerPiece; block < PieceEnd(batch.classes, piece); ++block) {
    result.finite &= WithBlock<T>(input, batch.classes, row, block, nullptr, clamp, [&](const auto &scores) {
      few ? SumTerms(scores, row, &sum, &check) : SumRanked(scores, row, &sum);
    });
  }
  result.sum = sum.Total();
  result.finite = result.finite && check.Finite() && std::isfinite(result.sum);
  return result;
}

template <class T>
PieceSum SumPiece(const Batch &batch, const Row &row, int64_t piece) {
  return SumScores<T>(batch, row, piece, false);
}

// The row's sum from its formula in double: for scores so large that float32 overflows on the way.
template <class T>
double SumInDouble(const T *input, int64_t classes, const Row &row) {
  double sum = 0;
  for (int64_t block = 0; block < Blocks(classes); ++block) {
    float scores[kBlock];
    LoadBlock(input, classes, row, block, scores);
    const int64_t count = std::min(kBlock, classes - block * kBlock);
    for (int32_t target : row.targets) {
      const double margin = 1.0 - ToFloat(input[target]);
      for (int64_t i = 0; i < count; ++i) sum += std::max(0.0, margin + scores[i]);
    }
  }
  return sum;
}

// The row's sum where a score, or the sum so far, is not finite.
template <class T>
double SumNotFinite(const Batch &batch, const Row &row) {
  const T *input = static_cast<const T *>(batch.input) + row.index * batch.classes;
  bool high = false, any = false, low = false;  // of the classes that are not targets: +inf, any at all, -inf
  for (int64_t block = 0; block < Blocks(batch.classes); ++block) {
    const int64_t begin = block * kBlock;
    bool is_target[kBlock] = {};
    for (int64_t j = BlockBegin(row, block); j < row.block_ends[block]; ++j) {
      is_target[row.targets[row.by_block[j]] - begin] = true;
    }
    for (int64_t i = begin; i < std::min(begin + kBlock, batch.classes); ++i) {
      const float score = ToFloat(input[i]);
      if (std::isnan(score)) return kNan;
      if (is_target[i - begin]) continue;
      any = true;
      high = high || score == kInfinity;
      low = low || score == -kInfinity;
    }
  }
  bool high_target = false, low_target = false;
  for (int32_t target : row.targets) {
    const float score = ToFloat(input[target]);
    high_target = high_target || score == kInfinity;
    low_target = low_target || score == -kInfinity;
  }
  if ((high_target && high) || (low_target && low)) return kNan;  // inf - inf
  if (high || (low_target && any)) return std::numeric_limits<double>::infinity();
  if (!any) return 0;
  double sum = 0;  // what is left is finite, and masked classes, which add nothing
  for (int64_t piece = 0; piece < Pieces(batch.classes); ++piece) sum += SumScores<T>(batch, row, piece, true).sum;
  return std::isfinite(sum) ? sum : SumInDouble(input, batch.classes, row);
}

template <class T>
double Loss(const Batch &batch, const Row &row, PieceSum sum) {
  return (sum.finite ? sum.sum : SumNotFinite<T>(batch, row)) / static_cast<double>(batch.classes);
}

// ---------------------------------------------------------------------------------------------------------------------
// The gradient

template <class T>
void PrepareGradient(const Batch &batch, int64_t index, double scale, Row *row) {
  Prepare<T>(batch, index, kFewTargetsGradient, row);
  row->scale = scale;
  const size_t ranks = row->targets.size() + 1;
  row->value.assign(std::max<size_t>(kFewTargetsGradient * 2, row->leaf << row->levels), 0);
  for (size_t k = 0; k < ranks; ++k) row->value[k] = ToFloat(FromDouble<T>(static_cast<double>(k) * scale));
}

void StartCounts(const Row &row, Counts *counts) {
  // Counting apart per lane keeps increments of the same counter from waiting for each other. With many ranks they are
  // rarely the same, and the cache matters more.
  const size_t ranks = row.targets.size() + 1;
  counts->log2_ways = ranks <= 1024 ? 3 : 0;
  counts->counts.assign(ranks << counts->log2_ways, 0);
}

template <int kTargets = kFewTargetsGradient, class Source>
void GradientFew(const Block<Source> &block, const Row &row, Counts *counts, FiniteCheck *check, float *gradient) {
  if (static_cast<int>(row.targets.size()) < kTargets) {
    if constexpr (kTargets > 1) GradientFew<kTargets - 1>(block, row, counts, check, gradient);
    return;
  }
  const Table<kFewTargetsGradient * 2> value(row.value.data());
  Floats thresholds[kTargets];
  LaneCounter active[kTargets];
  for (int j = 0; j < kTargets; ++j) thresholds[j] = Fill(row.thresholds[j]);
  FiniteCheck finite = *check;
  for (int64_t i = 0; i < block.count; i += kGradientVectors * kLanes) {
    Floats scores[kGradientVectors];
    block.LoadGroup(i, scores);
    finite.Add(scores);
#pragma GCC unroll 8
    for (int v = 0; v < kGradientVectors; ++v) {
      Ints targets = {};
      for (int j = 0; j < kTargets; ++j) {
        targets = CountGreater(targets, scores[v], thresholds[j]);
        active[j].AddGreater(scores[v], thresholds[j]);
      }
      Store(gradient + i + v * kLanes, value(targets));
    }
  }
  *check = finite;
  for (int j = 0; j < kTargets; ++j) counts->counts[j << counts->log2_ways] += active[j].Total();
}

// Writes the gradients of a group, and where the ranks are counted.
struct StoreGradients {
  float *gradient;
  int32_t *counters;
  int log2_ways;
  FiniteCheck check;

  template <class ByRank>
  MLML_INLINE void operator()(int64_t i, const Floats (&scores)[kGradientVectors],
                              const Ints (&ranks)[kGradientVectors], const Floats (&value)[kGradientVectors], ByRank) {
    check.Add(scores);
#pragma GCC unroll 8
    for (int v = 0; v < kGradientVectors; ++v) {
      Store(counters + i + v * kLanes, ranks[v] << log2_ways);
      Store(gradient + i + v * kLanes, value[v]);
    }
  }
};

template <class Source>
void GradientRanked(const Block<Source> &block, const Row &row, Counts *counts, FiniteCheck *check, float *gradient) {
  int32_t counters[kBlock];
  StoreGradients store{gradient, counters, counts->log2_ways, *check};
  Search<kGradientVectors>(block, row, row.value.data(), store);
  *check = store.check;
  uint32_t *count = counts->counts.data();
  const int ways = 1 << counts->log2_ways;
  for (int64_t i = 0; i < block.count; i += 8) {
    for (int lane = 0; lane < 8; ++lane) ++count[counters[i + lane] + (lane & (ways - 1))];
  }
}

template <class T>
bool GradientPiece(const Batch &batch, const Row &row, int64_t piece, Counts *counts, void *gradient) {
  const T *input = static_cast<const T *>(batch.input) + row.index * batch.classes;
  T *output = static_cast<T *>(gradient) + row.index * batch.classes;
  FiniteCheck check;
  bool finite = true;
  for (int64_t block = piece * kBlocksPerPiece; block < PieceEnd(batch.classes, piece); ++block) {
    const int64_t count = std::min(kBlock, batch.classes - block * kBlock);
    if (row.targets.empty()) {
      std::memset(output + block * kBlock, 0, count * sizeof(T));
      continue;
    }
    float values[kBlock];
    finite &= WithBlock<T>(input, batch.classes, row, block, output, false, [&](const auto &scores) {
      row.levels == 0 ? GradientFew(scores, row, counts, &check, values)
                      : GradientRanked(scores, row, counts, &check, values);
    });
    StoreBlock(values, count, output + block * kBlock);
  }
  return row.targets.empty() || (finite && check.Finite());
}

// For each target, the number of classes that it is active with.
std::vector<int64_t> ActiveClasses(const Row &row, const Counts &counts) {
  const size_t ranks = row.targets.size() + 1;
  std::vector<int64_t> totals(ranks + 1);
  for (size_t k = 0; k < ranks; ++k) {
    const uint32_t *of_rank = &counts.counts[k << counts.log2_ways];
    for (int way = 0; way < 1 << counts.log2_ways; ++way) totals[k] += of_rank[way];
  }
  if (row.levels == 0) return totals;
  for (size_t k = ranks; k-- > 0;) totals[k] += totals[k + 1];
  std::vector<int64_t> active(row.targets.size());
  for (size_t j = 0; j < active.size(); ++j) active[j] = totals[row.ranks[j] + 1];
  return active;
}

template <class T>
void FinishGradient(const Batch &batch, const Row &row, bool finite, const Counts &counts, void *gradient) {
  if (row.targets.empty()) return;
  const T *input = static_cast<const T *>(batch.input) + row.index * batch.classes;
  T *output = static_cast<T *>(gradient) + row.index * batch.classes;
  if (!finite && std::any_of(input, input + batch.classes, [](T score) { return std::isnan(ToFloat(score)); })) {
    std::fill_n(output, batch.classes, FromDouble<T>(kNan));
    return;
  }
  const std::vector<int64_t> active = ActiveClasses(row, counts);
  int64_t total[kBlock] = {};  // per class of a block: a class may be a target more than once
  for (int64_t block = 0; block < Blocks(batch.classes); ++block) {
    const int64_t *begin = row.by_block.data() + BlockBegin(row, block);
    const int64_t *end = row.by_block.data() + row.block_ends[block];
    for (const int64_t *j = begin; j < end; ++j) total[row.targets[*j] % kBlock] -= active[*j];
    for (const int64_t *j = begin; j < end; ++j) {
      const int32_t target = row.targets[*j];
      output[target] = FromDouble<T>(static_cast<double>(total[target % kBlock]) * row.scale);
    }
    for (const int64_t *j = begin; j < end; ++j) total[row.targets[*j] % kBlock] = 0;
  }
}

template <class T>
constexpr RowKernels kKernels = {PrepareLoss<T>, SumPiece<T>,      Loss<T>,          PrepareGradient<T>,
                                 StartCounts,    GradientPiece<T>, FinishGradient<T>};

}  // namespace

extern const RowKernels kFloat16 = kKernels<Float16>;
extern const RowKernels kFloat32 = kKernels<float>;

}  // namespace MLML_LEVEL
}  // namespace mlml
