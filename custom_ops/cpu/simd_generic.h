// The vector operations for any processor, in plain code. Included by simd.h, which says what each does.
#pragma once

#include "simd_plain.h"

namespace mlml {
namespace MLML_ISA {

inline Floats Load(const Float16 *from) {
  // As ToFloat does it, on vectors: GCC does not make them of a loop.
  typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));
  Halves halves;
  std::memcpy(&halves, from, sizeof(halves));
  const Ints bits = __builtin_convertvector(halves, Ints);
  const Ints magnitude = bits & 0x7fff;
  const Ints normal = (magnitude << 13) + (112 << 23) + ((magnitude >= 0x7c00) & (112 << 23));
  const Ints denormal = reinterpret_cast<Ints>(__builtin_convertvector(magnitude, Floats) * 0x1p-24f);
  const Ints is_denormal = magnitude < 0x400;
  return reinterpret_cast<Floats>((denormal & is_denormal) | (normal & ~is_denormal) | (bits & 0x8000) << 16);
}

inline void Store(Float16 *to, Floats value) {
  typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));
  const Ints bits = reinterpret_cast<Ints>(value);
  const Ints magnitude = bits & 0x7fffffff;
  // Rounded to nearest, ties to even, by what is added before the lower 13 bits go. The exponents differ by 112.
  const Ints normal = (magnitude - (112 << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
  // Beside 0.5, whose last bit is that of the least float16, an addition rounds denormal ones.
  const Ints denormal = reinterpret_cast<Ints>(reinterpret_cast<Floats>(magnitude) + 0.5f) - (126 << 23);
  const Ints is_denormal = magnitude < 113 << 23;
  const Ints is_large = magnitude >= 0x477ff000;  // 65520, halfway to what would come after the largest
  const Ints special = 0x7c00 | ((magnitude > 0x7f800000) & 0x200);  // infinity or NaN
  const Ints finite = (denormal & is_denormal) | (normal & ~is_denormal);
  const Ints half = (special & is_large) | (finite & ~is_large) | (bits >> 16 & 0x8000);
  const Halves halves = __builtin_convertvector(half, Halves);
  std::memcpy(to, &halves, sizeof(halves));
}

inline Floats Max(Floats a, Floats b) { return a > b ? a : b; }
inline Doubles LowHalf(Floats value) { return Doubles{value[0], value[1]}; }
inline Doubles HighHalf(Floats value) { return Doubles{value[2], value[3]}; }
inline Floats MaxOfPositive(Floats a, Floats b) { return Max(a, b); }
inline Floats Min(Floats a, Floats b) { return a < b ? a : b; }
inline Floats MulAdd(Floats a, Floats b, Floats c) { return a * b + c; }

inline bool AnyNegative(Ints value) {
  uint64_t halves[2];
  std::memcpy(halves, &value, sizeof(halves));
  return ((halves[0] | halves[1]) & 0x8000000080000000u) != 0;
}

template <int kMask>
inline Floats Exchange(Floats value) {
  return Floats{value[kMask], value[1 ^ kMask], value[2 ^ kMask], value[3 ^ kMask]};
}

using Lanes = Ints;  // -1 for those in it, 0 for the others
inline Lanes NotAtMost(Floats a, Floats b) { return ~(a <= b); }
inline int CountTrue(Lanes lanes) { return -(lanes[0] + lanes[1] + lanes[2] + lanes[3]); }

template <class Values, class Value>
MLML_INLINE void CompressStore(Lanes lanes, Values from, Value *to) {
  for (int lane = 0; lane < kLanes; ++lane) {
    *to = from[lane];
    to -= lanes[lane];
  }
}

template <int kSize>
class TableLookup {
 public:
  explicit TableLookup(const float *entries) : entries_(entries) {}

  MLML_INLINE Floats operator()(Ints place) const {
    return Floats{entries_[place[0]], entries_[place[1]], entries_[place[2]], entries_[place[3]]};
  }

 private:
  const float *entries_;
};

template <class Four>
MLML_INLINE void LookUpRows(const Four *rows, Ints index, Floats (&columns)[4]) {
  static_assert(sizeof(Four) == sizeof(Floats), "a row is a vector");
  const auto row = [=](int lane) { return Load(reinterpret_cast<const float *>(rows + index[lane])); };
  const Floats a = row(0), b = row(1), c = row(2), d = row(3);
  for (int i = 0; i < 4; ++i) columns[i] = Floats{a[i], b[i], c[i], d[i]};
}

}  // namespace MLML_ISA
}  // namespace mlml
