// The thresholds, sorted and made into a search tree: what is done once for each row before its scores are read.
//
// The tree is complete: its leaves are padded by +inf, and a level's nodes lie beside each other. As long as its levels
// fit vector registers, a leaf is one threshold; beyond, it is as many as a vector has lanes.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "row_targets.h"

namespace mlml {
namespace MLML_ISA {
namespace {

// Up to here counting the lesser ones of each sorts the thresholds faster than a radix sort does.
constexpr int64_t kFewToSort = 96;
// The deepest search tree whose levels are looked up in registers.
constexpr int kRegisterLevels = 8;

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
  GroupByTile(batch.classes, row);
  ComputeThresholds(static_cast<const T *>(batch.input) + index * batch.classes, row);
  const bool masked = std::find(row->thresholds.begin(), row->thresholds.end(), -kInfinity) != row->thresholds.end();
  row->absent = masked ? -kInfinity : kLowest;
  if (static_cast<int64_t>(row->targets.size()) <= few_targets) return;
  BuildTree(row);
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
