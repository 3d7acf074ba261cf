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

inline Floats ToFloats(Ints value) { return _mm512_cvtepi32_ps(reinterpret_cast<__m512i>(value)); }

inline Ints AddIfGreater(Ints value, int add, Floats a, Floats b) {
  const __m512i values = reinterpret_cast<__m512i>(value);
  const __mmask16 greater = _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
  return reinterpret_cast<Ints>(_mm512_mask_add_epi32(values, greater, values, _mm512_set1_epi32(add)));
}

inline Ints CountGreater(Ints count, Floats a, Floats b) { return AddIfGreater(count, 1, a, b); }

inline int LanesGreater(Floats a, Floats b) { return __builtin_popcount(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ)); }

// Counts outside of the vector units, which have enough to do.
class LaneCounter {
 public:
  MLML_INLINE void AddGreater(Floats a, Floats b) { count_ += static_cast<uint32_t>(LanesGreater(a, b)); }
  uint32_t Total() const { return count_; }

 private:
  uint32_t count_ = 0;
};

inline Doubles LowHalf(Floats value) { return _mm512_cvtps_pd(_mm512_castps512_ps256(value)); }
inline Doubles HighHalf(Floats value) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(value, 1)); }

template <int kSize>
class Table {
 public:
  explicit Table(const float *entries) {
    for (int i = 0; i < kRegisters; ++i) {
      const int left = kSize - i * kLanes;
      const auto mask = static_cast<__mmask16>(left >= kLanes ? 0xffff : (1 << left) - 1);
      registers_[i] = _mm512_maskz_loadu_ps(mask, entries + i * kLanes);
    }
  }

  MLML_INLINE Floats Modulo(Ints index) const {
    static_assert(kSize == kLanes || kSize == 2 * kLanes, "the permutations read just these bits");
    return (*this)(index);
  }

  MLML_INLINE Floats operator()(Ints index) const {
    const __m512i lane = reinterpret_cast<__m512i>(index);
    if constexpr (kSize <= kLanes) {
      return _mm512_permutexvar_ps(lane, registers_[0]);
    } else {
      return Among<kSize>(lane, 0);
    }
  }

 private:
  static constexpr int kRegisters = (kSize + kLanes - 1) / kLanes;

  // Looks up the kEntries entries from register `first` on, by the low bits of the index.
  template <int kEntries>
  MLML_INLINE __m512 Among(__m512i lane, int first) const {
    if constexpr (kEntries == 2 * kLanes) {
      return _mm512_permutex2var_ps(registers_[first], lane, registers_[first + 1]);
    } else {
      constexpr int kHalf = kEntries / 2;
      return _mm512_mask_blend_ps(_mm512_test_epi32_mask(lane, _mm512_set1_epi32(kHalf)), Among<kHalf>(lane, first),
                                  Among<kHalf>(lane, first + kHalf / kLanes));
    }
  }

  __m512 registers_[kRegisters];
};

inline Floats Gather(const float *entries, Ints index) {
  return _mm512_i32gather_ps(reinterpret_cast<__m512i>(index), entries, sizeof(float));
}

}  // namespace MLML_ISA
}  // namespace mlml
