// The thresholds, sorted.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "row_targets.h"

namespace mlml {
namespace MLML_ISA {
namespace {

// Up to here a network sorts the thresholds faster than a radix sort does.
constexpr int64_t kMostInNetwork = 512 * kLanes;

// Batcher's bitonic sort. To merge two sorted blocks, each value is set against its mirror image in the other; then,
// within each half, against the value half a half away, and so on. What is near enough is done in registers. No value
// is NaN.

// Of each two lanes whose numbers differ by the mask, the upper takes the greater value.
template <int kMask>
MLML_INLINE Floats CompareLanes(Floats value) {
  Ints upper;
  for (int lane = 0; lane < kLanes; ++lane) upper[lane] = (lane & ~(kMask >> 1) & kMask) != 0 ? -1 : 0;
  const Floats other = Exchange<kMask>(value);
  return upper ? Max(value, other) : Min(value, other);
}

template <int kStride>
MLML_INLINE Floats MergeLanes(Floats value) {
  if constexpr (kStride == 0)
    return value;
  else
    return MergeLanes<kStride / 2>(CompareLanes<kStride>(value));
}

template <int kBlock = 2>
MLML_INLINE Floats SortLanes(Floats value) {
  if constexpr (kBlock > kLanes)
    return value;
  else
    return SortLanes<2 * kBlock>(MergeLanes<kBlock / 4>(CompareLanes<kBlock - 1>(value)));
}

MLML_INLINE void CompareVectors(Floats *low, Floats *high) {
  const Floats value = *low;
  *low = Min(value, *high);
  *high = Max(value, *high);
}

MLML_INLINE void CompareMirrored(Floats *low, Floats *high) {
  Floats mirrored = Exchange<kLanes - 1>(*high);
  CompareVectors(low, &mirrored);
  *high = Exchange<kLanes - 1>(mirrored);
}

// Merges what is left to do within each 2 * kStride of the vectors.
template <int kStride, int kNumber>
MLML_INLINE void MergeVectors(Floats (&vectors)[kNumber]) {
  if constexpr (kStride > 0) {
#pragma GCC unroll 8
    for (int v = 0; v < kNumber; ++v) {
      if ((v & kStride) == 0) CompareVectors(&vectors[v], &vectors[v + kStride]);
    }
    MergeVectors<kStride / 2>(vectors);
  } else {
#pragma GCC unroll 8
    for (int v = 0; v < kNumber; ++v) vectors[v] = MergeLanes<kLanes / 2>(vectors[v]);
  }
}

template <int kBlock, int kNumber>
MLML_INLINE void SortVectors(Floats (&vectors)[kNumber]) {
  if constexpr (kBlock == 1) {
#pragma GCC unroll 8
    for (int v = 0; v < kNumber; ++v) vectors[v] = SortLanes(vectors[v]);
  } else {
    SortVectors<kBlock / 2>(vectors);
#pragma GCC unroll 8
    for (int v = 0; v < kNumber; ++v) {
      if ((v & kBlock / 2) == 0) CompareMirrored(&vectors[v], &vectors[v ^ (kBlock - 1)]);
    }
    MergeVectors<kBlock / 4>(vectors);
  }
}

// Calls use(vectors) with each kNumber vectors of the values, and stores what it makes of them.
template <int kNumber, class Use>
MLML_INLINE void ForVectors(int64_t count, float *values, Use use) {
  for (float *group = values; group < values + count; group += kNumber * kLanes) {
    Floats vectors[kNumber];
#pragma GCC unroll 8
    for (int v = 0; v < kNumber; ++v) vectors[v] = Load(group + v * kLanes);
    use(vectors);
#pragma GCC unroll 8
    for (int v = 0; v < kNumber; ++v) Store(group + v * kLanes, vectors[v]);
  }
}

// The count is a power of two, and at least kLanes.
template <int kNumber = 1>
void SortByNetwork(int64_t count, float *values) {
  constexpr int kMostVectors = 8;
  if constexpr (kNumber < kMostVectors) {
    if (count > kNumber * kLanes) return SortByNetwork<2 * kNumber>(count, values);
  }
  ForVectors<kNumber>(count, values,
                      [](Floats(&vectors)[kNumber]) MLML_INLINE_LAMBDA { SortVectors<kNumber>(vectors); });
  if (kNumber < kMostVectors) return;
  const auto compare = [=](int64_t low, int64_t high, auto compare_vectors) MLML_INLINE_LAMBDA {
    Floats a = Load(values + low), b = Load(values + high);
    compare_vectors(&a, &b);
    Store(values + low, a);
    Store(values + high, b);
  };
  for (int64_t block = 2 * kNumber * kLanes; block <= count; block *= 2) {
    for (int64_t begin = 0; begin < count; begin += block) {
      const int64_t last = begin + block - kLanes;
      for (int64_t i = 0; i < block / 2; i += kLanes) compare(begin + i, last - i, CompareMirrored);
    }
    for (int64_t stride = block / 4; stride >= kNumber * kLanes; stride /= 2) {
      for (int64_t begin = 0; begin < count; begin += 2 * stride) {
        for (int64_t i = begin; i < begin + stride; i += kLanes) compare(i, i + stride, CompareVectors);
      }
    }
    ForVectors<kNumber>(count, values,
                        [](Floats(&vectors)[kNumber]) MLML_INLINE_LAMBDA { MergeVectors<kNumber / 2>(vectors); });
  }
}

// Sorts by radix: one digit of the thresholds' bits after the other, from the lowest.
void SortByRadix(int64_t count, float *values, std::vector<uint32_t> *keys, std::vector<uint32_t> *moved) {
  constexpr int kDigits = 3, kBits = 11;
  constexpr uint32_t kSign = 0x80000000u, kDigit = (1 << kBits) - 1;
  keys->resize(count);
  moved->resize(count);
  std::memcpy(keys->data(), values, count * sizeof(float));
  std::vector<uint32_t> ends(size_t{kDigits} << kBits);
  for (uint32_t &key : *keys) {
    key = (key & kSign) != 0 ? ~key : key | kSign;  // ordered as the thresholds are
    for (int digit = 0; digit < kDigits; ++digit) ++ends[(digit << kBits) + (key >> kBits * digit & kDigit)];
  }
  for (int digit = 0; digit < kDigits; ++digit) {
    uint32_t *end_of = &ends[digit << kBits], begin = 0;
    for (uint32_t value = 0; value <= kDigit; ++value) begin += std::exchange(end_of[value], begin);
    for (const uint32_t key : *keys) (*moved)[end_of[key >> kBits * digit & kDigit]++] = key;
    keys->swap(*moved);
  }
  for (uint32_t &key : *keys) key = (key & kSign) != 0 ? key & ~kSign : ~key;
  std::memcpy(values, keys->data(), count * sizeof(float));
}

// Sorts the thresholds. They are padded with +inf to whole vectors and segments.
void Sort(Row *row) {
  constexpr int64_t kPadding = 256;
  const auto count = static_cast<int64_t>(row->targets.size());
  int64_t power = kLanes;
  if (count <= kMostInNetwork) {
    while (power < count) power *= 2;
  }
  row->sorted.Assign(std::max(power, count + kPadding), kInfinity);
  row->sorted_count = count;
  std::copy_n(row->thresholds.data(), count, row->sorted.data());
  if (count <= kMostInNetwork) {
    SortByNetwork(power, row->sorted.data());
  } else {
    SortByRadix(count, row->sorted.data(), &row->keys, &row->moved);
  }
}

// Keeps one of equal thresholds. From here on a rank is the number of different thresholds that are less, and
// row.thresholds_below counts these with all that are equal.
void MergeEqual(Row *row) {
  float *sorted = row->sorted.data();
  row->thresholds_below.resize(row->sorted_count + 1);
  int32_t *thresholds_below = row->thresholds_below.data();
  thresholds_below[0] = 0;
  int64_t different = 0;
  float previous = NAN;
  for (int64_t place = 0; place < row->sorted_count; ++place) {
    const float threshold = sorted[place];
    different += static_cast<int64_t>(threshold != previous);
    sorted[different - 1] = previous = threshold;
    thresholds_below[different] = static_cast<int32_t>(place + 1);
  }
  row->sorted_count = different;
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
