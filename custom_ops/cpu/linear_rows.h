// The inner loops of the linear layer (linear_kernels.h), for the instruction set that row.cpp is compiled for.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "linear_kernels.h"
#include "simd.h"

namespace mlml {
namespace MLML_ISA {
namespace {

// A group of numbers is cut into 8 / bits parts, and byte i of the packed group holds number i of each part.
template <int kBits>
void PackGroup(const uint16_t *numbers, uint8_t *packed) {
  constexpr int kParts = 8 / kBits, kSize = kPackedGroup / kParts;
  for (int i = 0; i < kSize; ++i) {
    unsigned byte = 0;
    for (int part = 0; part < kParts; ++part) byte |= static_cast<unsigned>(numbers[part * kSize + i]) << part * kBits;
    packed[i] = static_cast<uint8_t>(byte);
  }
}

template <int kBits>
void UnpackGroup(const uint8_t *packed, uint16_t *numbers) {
  constexpr int kParts = 8 / kBits, kSize = kPackedGroup / kParts;
  for (int part = 0; part < kParts; ++part) {
    for (int i = 0; i < kSize; ++i) {
      numbers[part * kSize + i] = static_cast<uint16_t>(packed[i] >> part * kBits & ((1 << kBits) - 1));
    }
  }
}

// Calls use(constant) with the number of bits as a constant.
template <class Use>
MLML_INLINE void WithBits(int bits, Use use) {
  if (bits == 1) return use(std::integral_constant<int, 1>());
  if (bits == 2) return use(std::integral_constant<int, 2>());
  if (bits == 4) return use(std::integral_constant<int, 4>());
  use(std::integral_constant<int, 8>());
}

void Pack(const uint16_t *numbers, int64_t count, int bits, uint8_t *packed) {
  if (bits == 16) {
    std::memcpy(packed, numbers, count * sizeof(*numbers));
    return;
  }
  WithBits(bits, [&](auto constant) {
    for (int64_t i = 0; i < count; i += kPackedGroup) PackGroup<constant>(numbers + i, packed + i * bits / 8);
  });
}

void Unpack(const uint8_t *packed, int64_t count, int bits, uint16_t *numbers) {
  if (bits == 16) {
    std::memcpy(numbers, packed, count * sizeof(*numbers));
    return;
  }
  WithBits(bits, [&](auto constant) {
    for (int64_t i = 0; i < count; i += kPackedGroup) UnpackGroup<constant>(packed + i * bits / 8, numbers + i);
  });
}

inline Ints LoadWidened(const uint16_t *from) {
  typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));
  Halves halves;
  std::memcpy(&halves, from, sizeof(halves));
  return __builtin_convertvector(halves, Ints);
}

int64_t CountActive(const uint16_t *numbers, int64_t count) {
  int64_t active = 0;
  for (int64_t begin = 0; begin < count; begin += kPackedGroup) {
    uint16_t in_group = 0;
    for (int64_t i = begin; i < begin + kPackedGroup; ++i)
      in_group = static_cast<uint16_t>(in_group + (numbers[i] != 0));
    active += in_group;
  }
  return active;
}

int64_t Compact(const uint16_t *numbers, int64_t count, int32_t *pairs) {
  Ints index;
  for (int lane = 0; lane < kLanes; ++lane) index[lane] = lane;
  int64_t found = 0;
  for (int64_t begin = 0; begin < count; begin += 32) {
    uint64_t words[8];
    std::memcpy(words, numbers + begin, sizeof(words));
    if ((words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7]) == 0) continue;
#pragma GCC unroll 8
    for (int64_t i = begin; i < begin + 32; i += kLanes) {
      const Ints number = LoadWidened(numbers + i);
      const Lanes active = NotAtMost(ToFloats(number), Floats{});
      CompressStore(active, (number << kClassBits) | (index + static_cast<int32_t>(i)), pairs + found);
      found += CountTrue(active);
    }
  }
  return found;
}

int64_t Keep(int32_t *pairs, int64_t count, int32_t first, int32_t classes) {
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t index = (pairs[i] & ((1 << kClassBits) - 1)) - first;
    pairs[kept] = pairs[i] - first;
    kept += index >= 0 && index < classes ? 1 : 0;
  }
  return kept;
}

void Expand(const int32_t *pairs, int64_t count, Term *terms) {
  for (int64_t i = 0; i < count; ++i) {
    terms[i] = {pairs[i] & ((1 << kClassBits) - 1), static_cast<float>(pairs[i] >> kClassBits)};
  }
}

void Convert(const uint16_t *numbers, int64_t count, float *to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(numbers[i]);
}

// The vectors come from the second-level cache or from memory: those of so many terms ahead are fetched.
constexpr int64_t kAhead = 4;

// The sum for kVectorsOfSum vectors of numbers, in registers.
template <int kVectorsOfSum>
MLML_INLINE void SumVectors(const Term *terms, int64_t count, const float *vectors, int64_t size, bool add,
                            float *sum) {
  Floats sums[kVectorsOfSum];
#pragma GCC unroll 8
  for (int v = 0; v < kVectorsOfSum; ++v) sums[v] = add ? Load(sum + v * kLanes) : Floats{};
  for (int64_t i = 0; i < count; ++i) {
    const float *vector = vectors + terms[i].index * size;
    const Floats weight = Set(terms[i].weight);
    if (i + kAhead < count) {
      const float *later = vectors + terms[i + kAhead].index * size;
#pragma GCC unroll 8
      for (int v = 0; v < kVectorsOfSum; v += 64 / (4 * kLanes)) __builtin_prefetch(later + v * kLanes);
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectorsOfSum; ++v) sums[v] = MulAdd(weight, Load(vector + v * kLanes), sums[v]);
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectorsOfSum; ++v) Store(sum + v * kLanes, sums[v]);
}

void SumTerms(const Term *terms, int64_t count, const float *vectors, int64_t size, bool add, float *sum) {
  int64_t d = 0;
  for (; d + 8 * kLanes <= size; d += 8 * kLanes) SumVectors<8>(terms, count, vectors + d, size, add, sum + d);
  for (; d + kLanes <= size; d += kLanes) SumVectors<1>(terms, count, vectors + d, size, add, sum + d);
  for (; d < size; ++d) {
    float total = add ? sum[d] : 0;
    for (int64_t i = 0; i < count; ++i) total += terms[i].weight * vectors[terms[i].index * size + d];
    sum[d] = total;
  }
}

void Transpose(const Term *terms, const int64_t *row_ends, int64_t rows, int64_t first_row, int64_t classes,
               int32_t *class_ends, Term *by_class) {
  std::fill_n(class_ends, classes, 0);
  const int64_t count = row_ends[rows - 1];
  for (int64_t i = 0; i < count; ++i) ++class_ends[terms[i].index];
  int32_t begin = 0;
  for (int64_t c = 0; c < classes; ++c) begin += std::exchange(class_ends[c], begin);
  for (int64_t row = 0, i = 0; row < rows; ++row) {
    for (; i < row_ends[row]; ++i) {
      by_class[class_ends[terms[i].index]++] = {static_cast<int32_t>(first_row + row), terms[i].weight};
    }
  }
}

double SumScaled(const Term *terms, int64_t count, const double *values) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += terms[i].weight * values[terms[i].index];
  return sum;
}

double Dot(const float *a, const float *b, int64_t size) {
  Doubles low = {}, high = {};
  int64_t d = 0;
  for (; d + kLanes <= size; d += kLanes) {
    const Floats x = Load(a + d), y = Load(b + d);
    low += LowHalf(x) * LowHalf(y);
    high += HighHalf(x) * HighHalf(y);
  }
  const Doubles sums = low + high;
  double total = 0;
  for (int i = 0; i < kLanes / 2; ++i) total += sums[i];
  for (; d < size; ++d) total += static_cast<double>(a[d]) * b[d];
  return total;
}

void AddScaled(const float *numbers, int64_t count, double weight, double *sums) {
  for (int64_t i = 0; i < count; ++i) sums[i] += weight * numbers[i];
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
