// The thresholds, sorted.
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
constexpr int64_t kFewToSort = 128;

// Sorts by counting, for each, those that are less.
void SortFew(Row *row) {
  const auto count = static_cast<int64_t>(row->targets.size());
  const float *thresholds = row->thresholds.data();
  float *sorted = row->sorted.data();
  std::fill_n(sorted, count, -kInfinity);
  for (int64_t j = 0; j < count; j += kLanes) {
    const Floats mine = Load(thresholds + j);
    Ints rank = {};
#pragma GCC unroll 4
    for (int64_t i = 0; i < count; ++i) rank = CountGreater(rank, mine, Fill(thresholds[i]));
    for (int64_t i = 0; i < std::min<int64_t>(kLanes, count - j); ++i) {
      row->ranks[j + i] = rank[i];
      sorted[rank[i]] = mine[i];
    }
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

// Sorts the thresholds. Behind them stands +inf, for whole vectors and segments.
void Sort(Row *row) {
  constexpr int64_t kPadding = 256;
  const auto count = static_cast<int64_t>(row->targets.size());
  row->sorted.Assign(count + kPadding, kInfinity);
  row->sorted_count = count;
  row->ranks.resize(count);
  count <= kFewToSort ? SortFew(row) : SortMany(row);
}

// Keeps one of equal thresholds. From here on a rank is the number of different thresholds that are less, and
// row.thresholds_below says how many that makes with all that are equal.
void MergeEqual(Row *row) {
  float *sorted = row->sorted.data();
  std::vector<int32_t> &merged = row->merged;
  merged.resize(row->sorted_count);
  row->thresholds_below.resize(row->sorted_count + 1);
  row->thresholds_below[0] = 0;
  int32_t last = 0;
  for (int64_t place = 0; place < row->sorted_count; ++place) {
    if (place > 0 && sorted[place] != sorted[last]) {
      row->thresholds_below[++last] = static_cast<int32_t>(place);
      sorted[last] = sorted[place];
    }
    merged[place] = last;
  }
  row->thresholds_below[last + 1] = static_cast<int32_t>(row->sorted_count);
  row->sorted_count = last + 1;
  for (int32_t &rank : row->ranks) rank = merged[rank];
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
