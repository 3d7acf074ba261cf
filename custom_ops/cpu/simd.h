// The few vector operations that the kernels need, for the instruction set that the including file is compiled for.
//
// Floats and Ints hold the same number of lanes, Doubles half as many. Their arithmetic and comparisons are the
// compiler's own (GCC's vector extensions); what those cannot say well is below, once with intrinsics for each
// instruction set that has the instruction and once in plain code, which serves every other processor.
#pragma once

#include <cstdint>
#include <cstring>

#include "float16.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

// The inner loops are put together from small pieces, which must not become calls that pass vectors through memory.
#define MLML_INLINE __attribute__((always_inline)) inline

namespace mlml {
namespace MLML_LEVEL {  // every level's code has names of its own: the linker must not merge them

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kTopLevels = 5;  // of a binary tree: one instruction looks up any of that many levels
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kTopLevels = 3;
#else
constexpr int kLanes = 4;
constexpr int kTopLevels = 2;
#endif

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef double Doubles __attribute__((vector_size(kLanes * 4)));  // half as many lanes

inline Floats Fill(float value) { return value - Floats{}; }

inline Floats Load(const float *from) {
  Floats value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

inline Ints Load(const int32_t *from) {
  Ints value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

inline void Store(float *to, Floats value) { std::memcpy(to, &value, sizeof(value)); }
inline void Store(int32_t *to, Ints value) { std::memcpy(to, &value, sizeof(value)); }

#if defined(__AVX512F__)

inline Floats Load(const Float16 *from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
}
inline void Store(Float16 *to, Floats value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}
// The greater of the two; `b` where either is NaN.
inline Floats Max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats ToFloats(Ints value) { return _mm512_cvtepi32_ps(reinterpret_cast<__m512i>(value)); }
// value + add in the lanes where a > b.
inline Ints AddIfGreater(Ints value, int add, Floats a, Floats b) {
  const __m512i values = reinterpret_cast<__m512i>(value);
  const __mmask16 greater = _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
  return reinterpret_cast<Ints>(_mm512_mask_add_epi32(values, greater, values, _mm512_set1_epi32(add)));
}
inline Ints CountGreater(Ints count, Floats a, Floats b) { return AddIfGreater(count, 1, a, b); }
// How many lanes of a are greater.
inline int LanesGreater(Floats a, Floats b) { return __builtin_popcount(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ)); }
// Counts the lanes where a > b, outside of the vector units, which have enough to do.
class LaneCounter {
 public:
  MLML_INLINE void AddGreater(Floats a, Floats b) { count_ += static_cast<uint32_t>(LanesGreater(a, b)); }
  uint32_t Total() const { return count_; }

 private:
  uint32_t count_ = 0;
};
inline Doubles LowHalf(Floats value) { return _mm512_cvtps_pd(_mm512_castps512_ps256(value)); }
inline Doubles HighHalf(Floats value) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(value, 1)); }

// A table of kSize floats, a power of two, for looking up one entry per lane. Permutations of registers look it up in a
// fraction of the time that a gather takes, as long as they are few.
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

  // Looks up index % kSize: the permutations read no more than these bits.
  MLML_INLINE Floats Modulo(Ints index) const {
    static_assert(kSize == kLanes || kSize == 2 * kLanes, "so many bits are read");
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

#else  // not AVX-512

#if defined(__AVX2__)

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

#else  // plain

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
  for (int i = 0; i < kLanes; ++i) to[i] = FromDouble<Float16>(value[i]);
}
inline Floats Max(Floats a, Floats b) { return a > b ? a : b; }
inline Doubles LowHalf(Floats value) { return Doubles{value[0], value[1]}; }
inline Doubles HighHalf(Floats value) { return Doubles{value[2], value[3]}; }
inline Floats Gather(const float *entries, Ints index) {
  Floats value;
  for (int i = 0; i < kLanes; ++i) value[i] = entries[index[i]];
  return value;
}

#endif

inline Floats ToFloats(Ints value) { return __builtin_convertvector(value, Floats); }
inline Ints AddIfGreater(Ints value, int add, Floats a, Floats b) { return value + ((a > b) & add); }
inline Ints CountGreater(Ints count, Floats a, Floats b) { return count - (a > b); }
inline int LanesGreater(Floats a, Floats b) {
  const Ints greater = a > b;
  int count = 0;
  for (int i = 0; i < kLanes; ++i) count -= greater[i];
  return count;
}

class LaneCounter {
 public:
  MLML_INLINE void AddGreater(Floats a, Floats b) { counts_ = CountGreater(counts_, a, b); }
  uint32_t Total() const {
    uint32_t total = 0;
    for (int i = 0; i < kLanes; ++i) total += static_cast<uint32_t>(counts_[i]);
    return total;
  }

 private:
  Ints counts_ = {};
};

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
#if defined(__AVX2__)
    if constexpr (kSize <= kLanes) return _mm256_permutevar8x32_ps(register_, reinterpret_cast<__m256i>(index));
#endif
    return Gather(entries_, index);
  }

 private:
  Floats register_;
  const float *entries_;
};

#endif  // AVX-512

// The exponent fields of floats that are not negative.
inline Ints Exponents(Floats value) { return reinterpret_cast<Ints>(value) >> 23; }

// A sum of floats, kept in double.
class DoubleSum {
 public:
  MLML_INLINE void Add(Floats value) {
    low_ += LowHalf(value);
    high_ += HighHalf(value);
  }

  double Total() const {
    const Doubles sum = low_ + high_;
    double total = 0;
    for (int i = 0; i < kLanes / 2; ++i) total += sum[i];
    return total;
  }

 private:
  Doubles low_ = {};
  Doubles high_ = {};
};

}  // namespace MLML_LEVEL
}  // namespace mlml
