// Operations in plain code: for every instruction set without AVX-512's masks, GCC makes good code of it. Included by
// the instruction set's own file; simd.h says what each does.
#pragma once

namespace mlml {
namespace MLML_ISA {

inline Floats ToFloats(Ints value) { return __builtin_convertvector(value, Floats); }
inline Ints CountGreater(Ints count, Floats a, Floats b) { return count - (a > b); }
inline Ints Truncate(Floats value) { return __builtin_convertvector(value, Ints); }

#if !defined(MLML_NEON)  // it has instructions for these

inline Floats Hinge(Floats value) { return Max(Floats{}, value); }
inline Ints AddIfGreater(Ints value, int add, Floats a, Floats b) { return value + ((a > b) & add); }

#endif

}  // namespace MLML_ISA
}  // namespace mlml
