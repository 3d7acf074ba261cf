// The few vector operations that the kernels need, for the instruction set that the including file is compiled for.
//
// Floats and Ints hold the same number of lanes, Doubles half as many. Their arithmetic and comparisons are the
// compiler's own (GCC's vector extensions). What those cannot express well is declared here, and defined for each
// instruction set in a file of its own: with intrinsics where it has the instruction, otherwise in plain code.
#pragma once

#include <cstdint>
#include <cstring>

#include "float16.h"

// The inner loops are put together from small pieces, which must not become calls that pass vectors through memory.
#define MLML_INLINE __attribute__((always_inline)) inline
#define MLML_INLINE_LAMBDA __attribute__((always_inline))

// NEON of 32-bit processors has neither the look-ups nor double.
#if defined(__aarch64__) && defined(__ARM_NEON)
#define MLML_NEON
#endif

namespace mlml {
namespace MLML_ISA {  // every instruction set's code has names of its own: the linker must not merge them

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef double Doubles __attribute__((vector_size(kLanes * 4)));  // half as many lanes

inline Floats Set(float value) { return value - Floats{}; }

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

// The lower 16 bits of each lane.
inline void StoreNarrowed(uint16_t *to, Ints value) {
  typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));
  const Halves halves = __builtin_convertvector(value, Halves);
  std::memcpy(to, &halves, sizeof(halves));
}

// What follows is defined once for each instruction set, in the file that is included below.

Floats Load(const Float16 *from);
void Store(Float16 *to, Floats value);        // rounded to nearest, ties to even
Floats Max(Floats a, Floats b);               // the greater of the two; b where either is NaN
Floats MaxOfPositive(Floats a, Floats b);     // the greater where a is not negative; a or b where either is NaN
Floats Min(Floats a, Floats b);               // the less; b where either is NaN
Floats Hinge(Floats value);                   // 0 or the value, if that is greater; NaN where it is NaN
Floats MulAdd(Floats a, Floats b, Floats c);  // a * b + c, rounded once where the processor can
Floats ToFloats(Ints value);
Ints Truncate(Floats value);  // towards 0; the value must fit

// value + add in the lanes where a > b. They must have no bit in common.
Ints AddIfGreater(Ints value, int add, Floats a, Floats b);
Ints CountGreater(Ints count, Floats a, Floats b);  // count + 1 there
bool AnyNegative(Ints value);

// Lane i of the result is lane i ^ kMask; the mask is a power of two, or one less.
template <int kMask>
Floats Exchange(Floats value);

// A set of lanes, of a type Lanes, has these: NotAtMost(a, b) are those where a <= b does not hold, CountTrue(lanes)
// says how many they are, and CompressStore(lanes, from, to) stores their values one after the other, and kLanes values
// in all.

Doubles LowHalf(Floats value);
Doubles HighHalf(Floats value);

// A table of kSize floats, a whole number of vectors. table(place) looks up one entry per lane. The place of entry i is
// kFirstSlot + i * kSlotStep: on NEON the numbers of its bytes.
template <int kSize>
class TableLookup;
#if defined(MLML_NEON)
constexpr int32_t kFirstSlot = 0x03020100, kSlotStep = 0x04040404;
#else
constexpr int32_t kFirstSlot = 0, kSlotStep = 1;
#endif

// For each lane, the four floats (or int32) of rows[index]: columns[c] has number c of each.
template <class Four>
void LookUpRows(const Four *rows, Ints index, Floats (&columns)[4]);

}  // namespace MLML_ISA
}  // namespace mlml

#if defined(__AVX512F__)
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#elif defined(MLML_NEON)
#include "simd_neon.h"
#else
#include "simd_generic.h"
#endif

namespace mlml {
namespace MLML_ISA {

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

}  // namespace MLML_ISA
}  // namespace mlml
