// The vector operations with NEON, of 64-bit ARM processors. Included by simd.h, which says what each does.
#pragma once

#include <arm_neon.h>

#include "simd_plain.h"

namespace mlml {
namespace MLML_ISA {

inline Floats Load(const Float16 *from) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t *>(from))));
}

inline void Store(Float16 *to, Floats value) {
  vst1_u16(reinterpret_cast<uint16_t *>(to), vreinterpret_u16_f16(vcvt_f16_f32(value)));
}

// The processor's own maximum and minimum are NaN where either is.
inline Floats Max(Floats a, Floats b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline Floats Min(Floats a, Floats b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline Floats MaxOfPositive(Floats a, Floats b) { return vmaxq_f32(a, b); }
inline Floats Hinge(Floats value) { return vmaxq_f32(Floats{}, value); }
// One instruction, or an addition where b is 1: the processor adds as fast as it multiplies.
inline Floats MulAdd(Floats a, Floats b, Floats c) { return a * b + c; }

inline Ints AddIfGreater(Ints value, int add, Floats a, Floats b) {
  return vbslq_s32(vdupq_n_u32(add), vreinterpretq_s32_u32(vcgtq_f32(a, b)), value);
}

inline bool AnyNegative(Ints value) { return vminvq_s32(value) < 0; }

template <int kMask>
inline Floats Exchange(Floats value) {
  if constexpr ((kMask & 1) != 0) value = vrev64q_f32(value);
  if constexpr ((kMask & 2) != 0) value = vextq_f32(value, value, 2);
  return value;
}

using Lanes = uint32_t;  // a bit for each
inline Lanes NotAtMost(Floats a, Floats b) {
  const uint32x4_t bits = {1, 2, 4, 8};
  return vaddvq_u32(vbicq_u32(bits, vcleq_f32(a, b)));
}

// For each set of lanes, how many they are, and the numbers of their bytes.
struct LaneBytes {
  uint8_t bytes[1 << kLanes][4 * kLanes];
  int32_t counts[1 << kLanes];
};
constexpr LaneBytes BytesOfLanes() {
  LaneBytes of = {};
  for (int lanes = 0; lanes < 1 << kLanes; ++lanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      if ((lanes >> lane & 1) == 0) continue;
      for (int byte = 0; byte < 4; ++byte) {
        of.bytes[lanes][4 * of.counts[lanes] + byte] = static_cast<uint8_t>(4 * lane + byte);
      }
      ++of.counts[lanes];
    }
  }
  return of;
}
inline constexpr LaneBytes kLaneBytes = BytesOfLanes();

inline int CountTrue(Lanes lanes) { return kLaneBytes.counts[lanes]; }
inline uint8x16_t CompressBytes(Lanes lanes, uint8x16_t from) {
  return vqtbl1q_u8(from, vld1q_u8(kLaneBytes.bytes[lanes]));
}
inline void CompressStore(Lanes lanes, Floats from, float *to) {
  Store(to, vreinterpretq_f32_u8(CompressBytes(lanes, vreinterpretq_u8_f32(from))));
}
inline void CompressStore(Lanes lanes, Ints from, int32_t *to) {
  Store(to, vreinterpretq_s32_u8(CompressBytes(lanes, vreinterpretq_u8_s32(from))));
}

inline Doubles LowHalf(Floats value) { return vcvt_f64_f32(vget_low_f32(value)); }
inline Doubles HighHalf(Floats value) { return vcvt_high_f64_f32(value); }

// A place has the numbers of the four bytes of its entry.
template <int kSize>
class TableLookup {
 public:
  explicit TableLookup(const float *entries) : registers_(LoadRegisters(reinterpret_cast<const uint8_t *>(entries))) {}

  MLML_INLINE Floats operator()(Ints place) const {
    const uint8x16_t bytes = vreinterpretq_u8_s32(place);
    if constexpr (kSize == 4) return vreinterpretq_f32_u8(vqtbl1q_u8(registers_, bytes));
    if constexpr (kSize == 8) return vreinterpretq_f32_u8(vqtbl2q_u8(registers_, bytes));
    if constexpr (kSize == 16) return vreinterpretq_f32_u8(vqtbl4q_u8(registers_, bytes));
  }

 private:
  static_assert(kSize == 4 || kSize == 8 || kSize == 16, "one look-up takes one, two or four registers");

  MLML_INLINE static auto LoadRegisters(const uint8_t *entries) {
    if constexpr (kSize == 4) return vld1q_u8(entries);
    if constexpr (kSize == 8) return vld1q_u8_x2(entries);
    if constexpr (kSize == 16) return vld1q_u8_x4(entries);
  }

  decltype(LoadRegisters(nullptr)) registers_;
};

template <class Four>
MLML_INLINE void LookUpRows(const Four *rows, Ints index, Floats (&columns)[4]) {
  static_assert(sizeof(Four) == 1 << 4, "four floats");
  const int64x2_t low = vshll_n_s32(vget_low_s32(index), 4), high = vshll_high_n_s32(index, 4);  // in bytes
  const auto row = [=](int64_t offset) {
    return Load(reinterpret_cast<const float *>(reinterpret_cast<const char *>(rows) + offset));
  };
  const auto pair = [](float32x4_t floats) { return vreinterpretq_f64_f32(floats); };
  const Floats a = row(low[0]), b = row(low[1]), c = row(high[0]), d = row(high[1]);
  const float64x2_t even_ab = pair(vtrn1q_f32(a, b)), even_cd = pair(vtrn1q_f32(c, d));
  const float64x2_t odd_ab = pair(vtrn2q_f32(a, b)), odd_cd = pair(vtrn2q_f32(c, d));
  columns[0] = vreinterpretq_f32_f64(vtrn1q_f64(even_ab, even_cd));
  columns[1] = vreinterpretq_f32_f64(vtrn1q_f64(odd_ab, odd_cd));
  columns[2] = vreinterpretq_f32_f64(vtrn2q_f64(even_ab, even_cd));
  columns[3] = vreinterpretq_f32_f64(vtrn2q_f64(odd_ab, odd_cd));
}

}  // namespace MLML_ISA
}  // namespace mlml
