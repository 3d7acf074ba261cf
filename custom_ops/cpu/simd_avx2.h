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
inline Floats Gather(const float *entries, Ints index) {
  return _mm256_i32gather_ps(entries, reinterpret_cast<__m256i>(index), sizeof(float));
}

template <int kSize>
class Table {
 public:
  explicit Table(const float *entries) : entries_(entries) {
    if constexpr (kSize <= kLanes) {
      float padded[kLanes] = {};
      std::memcpy(padded, entries, kSize * sizeof(float));
      register_ = Load(padded);
    }
  }

  MLML_INLINE Floats Modulo(Ints index) const { return (*this)(index & (kSize - 1)); }

  MLML_INLINE Floats operator()(Ints index) const {
    if constexpr (kSize <= kLanes) return _mm256_permutevar8x32_ps(register_, reinterpret_cast<__m256i>(index));
    return Gather(entries_, index);
  }

 private:
  Floats register_;
  const float *entries_;
};

}  // namespace MLML_ISA
}  // namespace mlml
