// The vector operations with AVX-512 (F, BW, DQ, VL). Included by simd.h, which says what each does.
#pragma once

#include <immintrin.h>

namespace mlml {
namespace MLML_ISA {

inline Floats Load(const Float16 *from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
}

inline void Store(Float16 *to, Floats value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}

inline Floats Max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats MaxOfPositive(Floats a, Floats b) {
  return reinterpret_cast<Floats>(
      _mm512_max_epi32(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));  // more units can do it
}
inline Floats Min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats Hinge(Floats value) { return _mm512_max_ps(Floats{}, value); }
inline Floats MulAdd(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

inline Floats ToFloats(Ints value) { return _mm512_cvtepi32_ps(reinterpret_cast<__m512i>(value)); }

inline Ints Truncate(Floats value) { return reinterpret_cast<Ints>(_mm512_cvttps_epi32(value)); }

inline Ints AddIfGreater(Ints value, int add, Floats a, Floats b) {
  const __m512i values = reinterpret_cast<__m512i>(value);
  const __mmask16 greater = _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
  return reinterpret_cast<Ints>(_mm512_mask_add_epi32(values, greater, values, _mm512_set1_epi32(add)));
}

inline Ints CountGreater(Ints count, Floats a, Floats b) { return AddIfGreater(count, 1, a, b); }

inline bool AnyNegative(Ints value) { return _mm512_movepi32_mask(reinterpret_cast<__m512i>(value)) != 0; }

template <int kMask>
inline Floats Exchange(Floats value) {
  constexpr int kOfFour[] = {0xe4, 0xb1, 0x4e, 0x1b};                       // of numbers 3 to 0, two bits for each
  constexpr int kFours = kOfFour[kMask / 4], kInFour = kOfFour[kMask % 4];  // constants without optimization, too
  return _mm512_permute_ps(_mm512_shuffle_f32x4(value, value, kFours), kInFour);
}

using Lanes = __mmask16;
inline Lanes NotAtMost(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ); }
inline int CountTrue(Lanes lanes) { return __builtin_popcount(lanes); }
inline void CompressStore(Lanes lanes, Floats from, float *to) { Store(to, _mm512_maskz_compress_ps(lanes, from)); }
inline void CompressStore(Lanes lanes, Ints from, int32_t *to) {
  Store(to, reinterpret_cast<Ints>(_mm512_maskz_compress_epi32(lanes, reinterpret_cast<__m512i>(from))));
}

inline Doubles LowHalf(Floats value) { return _mm512_cvtps_pd(_mm512_castps512_ps256(value)); }
inline Doubles HighHalf(Floats value) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(value, 1)); }

template <int kSize>
class TableLookup {
 public:
  explicit TableLookup(const float *entries) : low_(Load(entries)), high_(Load(entries + kSize - kLanes)) {
    static_assert(kSize == kLanes || kSize == 2 * kLanes, "one permutation looks up as many");
  }

  MLML_INLINE Floats operator()(Ints place) const {
    const __m512i lane = reinterpret_cast<__m512i>(place);
    if constexpr (kSize == kLanes) return _mm512_permutexvar_ps(lane, low_);
    return _mm512_permutex2var_ps(low_, lane, high_);
  }

 private:
  Floats low_, high_;
};

template <class Four>
MLML_INLINE void LookUpRows(const Four *rows, Ints index, Floats (&columns)[4]) {
  static_assert(sizeof(Four) == sizeof(__m128), "four floats");
  int32_t at[kLanes];
  Store(at, index);
  const auto row = [&](int lane) { return _mm_load_ps(reinterpret_cast<const float *>(rows + at[lane])); };
  __m512 fours[4];  // rows i, i + 4, i + 8 and i + 12
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(row(i)), row(i + 4), 1);
    const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(row(i + 8)), row(i + 12), 1);
    fours[i] = _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
  }
  const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(fours[0], fours[1]));
  const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(fours[2], fours[3]));
  const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(fours[0], fours[1]));
  const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(fours[2], fours[3]));
  columns[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
  columns[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
  columns[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
  columns[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
}

}  // namespace MLML_ISA
}  // namespace mlml
