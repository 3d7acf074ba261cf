// The comparisons in plain code: for every instruction set without AVX-512's masks, GCC makes good code of it. Included
// by the instruction set's own file; simd.h says what each does.
#pragma once

namespace mlml {
namespace MLML_ISA {

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

}  // namespace MLML_ISA
}  // namespace mlml
