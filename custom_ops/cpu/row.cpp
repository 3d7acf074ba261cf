// The loss and the gradient of one row. Compiled once for each instruction set, into the namespace MLML_LEVEL.
//
// The classes are worked on in blocks that fit the first-level cache: a block's scores are converted to float32, those of
// targets become -inf, which is active with nothing, and the inner loops know neither dtypes nor targets nor remainders.
#include "row.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "simd.h"

namespace mlml {
namespace MLML_LEVEL {
namespace {

constexpr int64_t kBlock = 1024;
static_assert(kPiece % kBlock == 0 && kBlock % kLanes == 0, "pieces are made of blocks, blocks of vectors");

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Up to here the terms of the loss are computed one by one: it is as fast, and exact as documented.
constexpr int64_t kFewTargets = 3;
constexpr int64_t kFewPairs = 4096;
// Up to here the gradient compares each score with each threshold instead of searching.
constexpr int64_t kFewTargetsGradient = 8;
// Up to here counting the lesser ones of each sorts the thresholds faster than std::sort does.
constexpr int64_t kCountingSort = 512;
// The deepest search tree whose levels are looked up in registers and unrolled.
constexpr int kUnrolledLevels = 9;

int64_t Blocks(int64_t classes) { return (classes + kBlock - 1) / kBlock; }

// ---------------------------------------------------------------------------------------------------------------------
// Preparing a row

void ReadTargets(const Batch &batch, int64_t index, Row *row) {
  const int32_t *labels = batch.target + index * batch.classes;
  int64_t count = 0;
  for (; count < batch.classes && labels[count] >= 0; ++count) {
    if (labels[count] < batch.classes) continue;
    Fail("a value of 'target' must be less than the number of classes, " + std::to_string(batch.classes) +
         ", but got target" + (batch.is_matrix ? "[" + std::to_string(index) + "]" : "") + "[" + std::to_string(count) +
         "] = " + std::to_string(labels[count]) + ".");
  }
  row->index = index;
  row->targets.assign(labels, labels + count);
}

void GroupByBlock(int64_t classes, Row *row) {
  const auto count = static_cast<int64_t>(row->targets.size());
  row->block_ends.assign(Blocks(classes), 0);
  row->by_block.resize(count);
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
    const float threshold = -(1.0f - ToFloat(input[row->targets[j]]));
    // With a NaN the row's result is NaN anyway; it must only not disturb the sorting.
    if (threshold == threshold) row->thresholds[j] = threshold;
  }
}

void SortThresholds(Row *row) {
  const auto count = static_cast<int64_t>(row->targets.size());
  row->levels = 1;
  while ((int64_t{1} << row->levels) <= count) ++row->levels;
  row->sorted.assign((int64_t{1} << row->levels) - 1, kInfinity);
  row->ranks.resize(count);
  if (count > kCountingSort) {
    std::copy_n(row->thresholds.begin(), count, row->sorted.begin());
    std::sort(row->sorted.begin(), row->sorted.begin() + count);
    for (int64_t j = 0; j < count; ++j) {
      const auto place = std::lower_bound(row->sorted.begin(), row->sorted.begin() + count, row->thresholds[j]);
      row->ranks[j] = static_cast<int32_t>(place - row->sorted.begin());
    }
    return;
  }
  std::fill_n(row->sorted.begin(), count, -kInfinity);
  for (int64_t j = 0; j < count; ++j) {
    const Floats threshold = Fill(row->thresholds[j]);
    Ints less = {};
    for (int64_t i = 0; i < count; i += kLanes) less = CountGreater(less, threshold, Load(&row->thresholds[i]));
    int32_t rank = 0;
    for (int lane = 0; lane < kLanes; ++lane) rank += less[lane];
    row->ranks[j] = rank;
    row->sorted[rank] = row->thresholds[j];
  }
  // Equal thresholds share a rank: the places behind it are theirs too.
  for (int64_t j = 1; j < count; ++j) row->sorted[j] = std::max(row->sorted[j], row->sorted[j - 1]);
}

void BuildTree(Row *row) {
  row->tree.resize(int64_t{1} << row->levels);
  for (int level = 0; level < row->levels; ++level) {
    const int64_t nodes = int64_t{1} << level;
    const int64_t stride = int64_t{1} << (row->levels - level);
    for (int64_t i = 0; i < nodes; ++i) row->tree[nodes + i] = row->sorted[i * stride + stride / 2 - 1];
  }
}

template <class T>
void Prepare(const Batch &batch, int64_t index, int64_t few_targets, Row *row) {
  ReadTargets(batch, index, row);
  row->levels = 0;
  if (row->targets.empty()) return;
  GroupByBlock(batch.classes, row);
  ComputeThresholds(static_cast<const T *>(batch.input) + index * batch.classes, row);
  if (static_cast<int64_t>(row->targets.size()) <= few_targets) return;
  SortThresholds(row);
  BuildTree(row);
}

// ---------------------------------------------------------------------------------------------------------------------
// Blocks

// Loads a block of scores, pads it to whole vectors, and takes the targets out. False if a score is not finite.
template <class T>
bool LoadBlock(const T *input, int64_t classes, const Row &row, int64_t block, float *scores) {
  const int64_t begin = block * kBlock;
  const int64_t count = std::min(kBlock, classes - begin);
  const int64_t whole = count / kLanes * kLanes;
  Floats finite = {};  // 0, or NaN once a score is infinite or NaN
  int64_t i = 0;
  for (; i < whole; i += kLanes) {
    const Floats score = Load(input + begin + i);
    finite += score * 0.0f;
    Store(scores + i, score);
  }
  if (i < count) {
    for (; i < count; ++i) scores[i] = ToFloat(input[begin + i]);
    for (; i < whole + kLanes; ++i) scores[i] = 0;
    finite += Load(scores + whole) * 0.0f;
    std::fill(scores + count, scores + whole + kLanes, -kInfinity);
  }
  for (int64_t j = block == 0 ? 0 : row.block_ends[block - 1]; j < row.block_ends[block]; ++j) {
    scores[row.targets[row.by_block[j]] - begin] = -kInfinity;
  }
  float sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += finite[lane];
  return sum == 0;
}

template <class T>
void StoreBlock(const float *values, int64_t count, T *to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(to + i, Load(values + i));
  for (; i < count; ++i) to[i] = FromDouble<T>(values[i]);
}

// Calls do_block(block, number of scores in it, number of scores in whole vectors) for each block of a piece.
template <class DoBlock>
void ForEachBlock(int64_t classes, int64_t piece, DoBlock do_block) {
  const int64_t end = std::min(classes, (piece + 1) * kPiece);
  for (int64_t begin = piece * kPiece; begin < end; begin += kBlock) {
    const int64_t count = std::min(kBlock, end - begin);
    do_block(begin / kBlock, count, (count + kLanes - 1) / kLanes * kLanes);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Searching: the rank of a score among the sorted thresholds

template <int kLevels>
class Tree {
 public:
  explicit Tree(const float *tree) : upper_(tree), lowest_(tree + (1 << (kLevels - 1))) {}
  Ints Rank(Floats score) const {
    const Ints node = upper_.Rank(score);
    return CountGreater(node + node, score, lowest_(node));
  }

 private:
  Tree<kLevels - 1> upper_;
  Table<1 << (kLevels - 1)> lowest_;
};

template <>
class Tree<0> {
 public:
  explicit Tree(const float *) {}
  Ints Rank(Floats) const { return Ints{}; }
};

// Any deeper tree: the levels below the unrolled ones are looked up in memory.
class DeepTree {
 public:
  DeepTree(const float *tree, int levels) : upper_(tree), tree_(tree), levels_(levels) {}
  Ints Rank(Floats score) const {
    Ints node = upper_.Rank(score);
    for (int level = kUnrolledLevels; level < levels_; ++level) {
      node = CountGreater(node + node, score, Gather(tree_ + (int64_t{1} << level), node));
    }
    return node;
  }

 private:
  Tree<kUnrolledLevels> upper_;
  const float *tree_;
  int levels_;
};

class GatherTable {
 public:
  explicit GatherTable(const float *entries) : entries_(entries) {}
  Floats operator()(Ints index) const { return Gather(entries_, index); }

 private:
  const float *entries_;
};

// Calls search.Run<tree type, table type>(tree) for the row's tree.
template <int kLevels = 1, class Search>
void WithTree(const Row &row, Search *search) {
  if constexpr (kLevels > kUnrolledLevels) {
    search->template Run<GatherTable>(DeepTree(row.tree.data(), row.levels));
  } else if (row.levels == kLevels) {
    search->template Run<Table<1 << kLevels>>(Tree<kLevels>(row.tree.data()));
  } else {
    WithTree<kLevels + 1>(row, search);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The loss

template <class T>
void PrepareLoss(const Batch &batch, int64_t index, Row *row) {
  Prepare<T>(batch, index, kFewTargets, row);
  if (row->levels == 0) return;
  const size_t ranks = size_t{1} << row->levels;
  row->base.assign(ranks, 0);
  row->rest.assign(ranks, 0);
  double rest = 0;
  for (size_t k = 1; k <= row->targets.size(); ++k) {
    row->base[k] = row->sorted[k - 1];
    if (k > 1) rest += static_cast<double>(k - 1) * (static_cast<double>(row->base[k]) - row->base[k - 1]);
    row->rest[k] = static_cast<float>(rest);
  }
}

// Each term of the loss is rounded to float32, as documented, and added in double.
void SumTerms(const float *scores, int64_t count, const Row &row, DoubleSum *sum) {
  for (size_t j = 0; j < row.targets.size(); ++j) {
    const Floats threshold = Fill(row.thresholds[j]);
    for (int64_t i = 0; i < count; i += kLanes) sum->Add(Max(Load(scores + i) - threshold, Floats{}));
  }
}

struct SumRanked {
  const float *scores;
  int64_t count;
  const Row &row;
  DoubleSum *sum;

  template <class Lookup, class Tree>
  void Run(const Tree &tree) {
    const Lookup base(row.base.data()), rest(row.rest.data());
    DoubleSum total = *sum;
    for (int64_t i = 0; i < count; i += kLanes) {
      const Floats score = Load(scores + i);
      const Ints rank = tree.Rank(score);
      total.Add(ToFloats(rank) * (Max(score, Fill(kLowest)) - base(rank)) + rest(rank));
    }
    *sum = total;
  }
};

template <class T>
PieceSum SumPiece(const Batch &batch, const Row &row, int64_t piece) {
  PieceSum result;
  if (row.targets.empty()) return result;
  const T *input = static_cast<const T *>(batch.input) + row.index * batch.classes;
  const bool few = row.levels == 0 || static_cast<int64_t>(row.targets.size()) * batch.classes <= kFewPairs;
  ForEachBlock(batch.classes, piece, [&](int64_t block, int64_t, int64_t padded) {
    float scores[kBlock];
    if (!LoadBlock(input, batch.classes, row, block, scores)) result.finite = false;
    DoubleSum sum;
    if (few) {
      SumTerms(scores, padded, row, &sum);
    } else {
      SumRanked search{scores, padded, row, &sum};
      WithTree(row, &search);
    }
    result.sum += sum.Total();
  });
  return result;
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

// The row's sum where a score is not finite: NaN, infinite, or `sum`, to which masked classes (-inf) add nothing.
template <class T>
double SumNotFinite(const T *input, int64_t classes, const Row &row, double sum) {
  bool high = false, low = false, any = false;  // of the classes that are not targets: +inf, -inf, any at all
  for (int64_t block = 0; block < Blocks(classes); ++block) {
    const int64_t begin = block * kBlock;
    bool is_target[kBlock] = {};
    for (int64_t j = block == 0 ? 0 : row.block_ends[block - 1]; j < row.block_ends[block]; ++j) {
      is_target[row.targets[row.by_block[j]] - begin] = true;
    }
    for (int64_t i = begin; i < std::min(begin + kBlock, classes); ++i) {
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
  if (high || (low_target && any)) return kInfinity;
  return sum;
}

template <class T>
double Loss(const Batch &batch, const Row &row, PieceSum sum) {
  const T *input = static_cast<const T *>(batch.input) + row.index * batch.classes;
  double total = sum.sum;
  if (!sum.finite) total = SumNotFinite(input, batch.classes, row, total);
  if (std::isinf(total) && sum.finite) total = SumInDouble(input, batch.classes, row);
  return total / static_cast<double>(batch.classes);
}

// ---------------------------------------------------------------------------------------------------------------------
// The gradient

template <class T>
void PrepareGradient(const Batch &batch, int64_t index, double scale, Row *row) {
  Prepare<T>(batch, index, kFewTargetsGradient, row);
  row->scale = scale;
  const size_t ranks = row->targets.size() + 1;
  row->value.assign(std::max<size_t>(kFewTargetsGradient * 2, size_t{1} << row->levels), 0);
  for (size_t k = 0; k < ranks; ++k) row->value[k] = ToFloat(FromDouble<T>(static_cast<double>(k) * scale));
}

void StartCounts(const Row &row, Counts *counts) {
  // Counting apart per lane keeps increments of the same counter from waiting for each other. With many ranks they are
  // rarely the same, and the cache matters more.
  const auto ranks = static_cast<int64_t>(row.targets.size()) + 1;
  counts->ways = ranks <= 1024 ? 8 : 1;
  counts->counts.assign(ranks * counts->ways, 0);
}

template <int kTargets>
void GradientFew(const float *scores, int64_t count, const Row &row, Counts *counts, float *gradient) {
  if (static_cast<int>(row.targets.size()) < kTargets) {
    if constexpr (kTargets > 1) GradientFew<kTargets - 1>(scores, count, row, counts, gradient);
    return;
  }
  const Table<kFewTargetsGradient * 2> value(row.value.data());
  Floats thresholds[kTargets];
  Ints active[kTargets] = {};
  for (int j = 0; j < kTargets; ++j) thresholds[j] = Fill(row.thresholds[j]);
  for (int64_t i = 0; i < count; i += kLanes) {
    const Floats score = Load(scores + i);
    Ints targets = {};
    for (int j = 0; j < kTargets; ++j) {
      targets = CountGreater(targets, score, thresholds[j]);
      active[j] = CountGreater(active[j], score, thresholds[j]);
    }
    Store(gradient + i, value(targets));
  }
  for (int j = 0; j < kTargets; ++j) {
    for (int lane = 0; lane < kLanes; ++lane) counts->counts[j * counts->ways + lane % counts->ways] += active[j][lane];
  }
}

struct GradientRanked {
  const float *scores;
  int64_t count;
  const Row &row;
  Counts *counts;
  float *gradient;

  template <class Lookup, class Tree>
  void Run(const Tree &tree) {
    const Lookup value(row.value.data());
    int32_t ranks[kBlock];
    for (int64_t i = 0; i < count; i += kLanes) {
      const Ints rank = tree.Rank(Load(scores + i));
      Store(ranks + i, rank);
      Store(gradient + i, value(rank));
    }
    uint32_t *counters = counts->counts.data();
    const int64_t ways = counts->ways;
    for (int64_t i = 0; i < count; ++i) ++counters[ranks[i] * ways + (i & (ways - 1))];
  }
};

template <class T>
bool GradientPiece(const Batch &batch, const Row &row, int64_t piece, Counts *counts, void *gradient) {
  const T *input = static_cast<const T *>(batch.input) + row.index * batch.classes;
  T *output = static_cast<T *>(gradient) + row.index * batch.classes;
  bool finite = true;
  ForEachBlock(batch.classes, piece, [&](int64_t block, int64_t count, int64_t padded) {
    if (row.targets.empty()) {
      std::memset(output + block * kBlock, 0, count * sizeof(T));
      return;
    }
    float scores[kBlock], values[kBlock];
    if (!LoadBlock(input, batch.classes, row, block, scores)) finite = false;
    if (row.levels == 0) {
      GradientFew<kFewTargetsGradient>(scores, padded, row, counts, values);
    } else {
      GradientRanked search{scores, padded, row, counts, values};
      WithTree(row, &search);
    }
    StoreBlock(values, count, output + block * kBlock);
  });
  return finite;
}

// For each target, the number of classes that it is active with.
std::vector<int64_t> ActiveClasses(const Row &row, const Counts &counts) {
  const size_t ranks = row.targets.size() + 1;
  std::vector<int64_t> totals(ranks + 1);
  for (size_t k = 0; k < ranks; ++k) {
    for (int64_t way = 0; way < counts.ways; ++way) totals[k] += counts.counts[k * counts.ways + way];
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
  for (size_t block = 0; block < row.block_ends.size(); ++block) {
    const int64_t *begin = row.by_block.data() + (block == 0 ? 0 : row.block_ends[block - 1]);
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
constexpr RowKernels kKernels = {PrepareLoss<T>,     SumPiece<T>,    Loss<T>,          PrepareGradient<T>,
                                 StartCounts,        GradientPiece<T>, FinishGradient<T>};

}  // namespace

extern const RowKernels kFloat16 = kKernels<Float16>;
extern const RowKernels kFloat32 = kKernels<float>;

}  // namespace MLML_LEVEL
}  // namespace mlml
