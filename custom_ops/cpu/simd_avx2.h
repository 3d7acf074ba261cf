// The vector operations with AVX2, FMA and F16C. Included by simd.h, which says what each does.
#pragma once

#include <immintrin.h>

#include "simd_plain.h"

namespace mlml {
namespace MLML_ISA {

inline Floats Load(const Float16 *from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
}

inline void Store(Float16 *to, Floats value) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}

inline Floats Max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Doubles LowHalf(Floats value) { return _mm256_cvtps_pd(_mm256_castps256_ps128(value)); }
inline Doubles HighHalf(Floats value) { return _mm256_cvtps_pd(_mm256_extractf128_ps(value, 1)); }
inline Floats MaxOfPositive(Floats a, Floats b) {
  return reinterpret_cast<Floats>(
      _mm256_max_epi32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));  // more units can do it
}
inline Floats Min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats MulAdd(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

inline bool AnyNegative(Ints value) { return _mm256_movemask_ps(reinterpret_cast<__m256>(value)) != 0; }

template <int kMask>
inline Floats Exchange(Floats value) {
  constexpr int kOfFour[] = {0xe4, 0xb1, 0x4e, 0x1b};  // lanes 3 to 0 of each four, two bits for each
  constexpr int kInFour = kOfFour[kMask % 4];          // a constant without optimization, too
  const Floats halves = kMask < 4 ? value : Floats(_mm256_permute2f128_ps(value, value, 1));
  return _mm256_permute_ps(halves, kInFour);
}

using Lanes = int;  // a bit for each
inline Lanes NotAtMost(Floats a, Floats b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NLE_UQ)); }
inline int CountTrue(Lanes lanes) { return __builtin_popcount(lanes); }

// For each set of lanes, the numbers of those that are in it.
struct LaneNumbers {
  uint8_t numbers[1 << kLanes][kLanes];
};
constexpr LaneNumbers NumbersOfLanes() {
  LaneNumbers of = {};
  for (int lanes = 0; lanes < 1 << kLanes; ++lanes) {
    int count = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      if ((lanes >> lane & 1) != 0) of.numbers[lanes][count++] = static_cast<uint8_t>(lane);
    }
  }
  return of;
}
inline constexpr LaneNumbers kLaneNumbers = NumbersOfLanes();

inline __m256i NumbersOf(Lanes lanes) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(kLaneNumbers.numbers[lanes])));
}
inline void CompressStore(Lanes lanes, Floats from, float *to) {
  Store(to, _mm256_permutevar8x32_ps(from, NumbersOf(lanes)));
}
inline void CompressStore(Lanes lanes, Ints from, int32_t *to) {
  Store(to, reinterpret_cast<Ints>(_mm256_permutevar8x32_epi32(reinterpret_cast<__m256i>(from), NumbersOf(lanes))));
}

template <int kSize>
class TableLookup {
 public:
  explicit TableLookup(const float *entries) : register_(Load(entries)) {
    static_assert(kSize == kLanes, "one permutation looks up as many");
  }

  MLML_INLINE Floats operator()(Ints place) const {
    return _mm256_permutevar8x32_ps(register_, reinterpret_cast<__m256i>(place));
  }

 private:
  Floats register_;
};

template <class Four>
MLML_INLINE void LookUpRows(const Four *rows, Ints index, Floats (&columns)[4]) {
  static_assert(sizeof(Four) == sizeof(__m128), "four floats");
  int32_t at[kLanes];
  Store(at, index);
  const auto row = [&](int lane) { return _mm_load_ps(reinterpret_cast<const float *>(rows + at[lane])); };
  __m256 pairs[4];  // rows i and i + 4
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    pairs[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(row(i)), row(i + 4), 1);
  }
  const __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(pairs[0], pairs[1]));
  const __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(pairs[2], pairs[3]));
  const __m256d high01 = _mm256_castps_pd(_mm256_unpackhi_ps(pairs[0], pairs[1]));
  const __m256d high23 = _mm256_castps_pd(_mm256_unpackhi_ps(pairs[2], pairs[3]));
  columns[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23));
  columns[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23));
  columns[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23));
  columns[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23));
}

}  // namespace MLML_ISA
}  // namespace mlml
