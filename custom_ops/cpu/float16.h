// float16 as storage: the kernels load it into float32, compute there, and round once on the way out.
#pragma once

#include <cstdint>
#include <cstring>

namespace mlml {

struct Float16 {
  uint16_t bits;
};

inline float ToFloat(float value) { return value; }

// No float32 on the way is denormal: a processor may be set to make those 0.
inline float ToFloat(Float16 value) {
  const uint32_t magnitude = value.bits & 0x7fffu;
  float result;
  if (magnitude < 0x400u) {
    result = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
  } else {  // the exponents' bias, 15 there and 127 here; twice for infinity and NaN, whose exponent is the greatest
    const uint32_t bits = (magnitude << 13) + (magnitude < 0x7c00u ? 112u << 23 : 224u << 23);
    std::memcpy(&result, &bits, sizeof(result));
  }
  return value.bits & 0x8000u ? -result : result;
}

template <class T>
T FromDouble(double value);

template <>
inline float FromDouble<float>(double value) {
  return static_cast<float>(value);
}

// Rounds to the nearest float16, ties to even, straight from double: no second rounding.
template <>
inline Float16 FromDouble<Float16>(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const auto sign = static_cast<uint16_t>(bits >> 48 & 0x8000u);
  const double magnitude = value < 0 ? -value : value;
  if (!(magnitude == magnitude)) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 65520.0) return {static_cast<uint16_t>(sign | 0x7c00u)};
  // Adding 1.5 * 2^52 units of the last float16 place makes the hardware do the rounding.
  int exponent = static_cast<int>(bits >> 52 & 0x7ff) - 1023;
  if (exponent < -14) exponent = -14;  // float16 denormals share the exponent of the smallest normal
  const uint64_t unit_bits = static_cast<uint64_t>(exponent - 10 + 1023) << 52;
  double unit;
  std::memcpy(&unit, &unit_bits, sizeof(unit));
  const double places = (magnitude / unit + 0x1.8p52) - 0x1.8p52;
  const auto count = static_cast<uint32_t>(places);  // 0 to 2048: a carry runs into the exponent, as it should
  return {static_cast<uint16_t>(sign | ((static_cast<uint32_t>(exponent + 14) << 10) + count))};
}

}  // namespace mlml
