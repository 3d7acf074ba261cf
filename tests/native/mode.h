// The floating-point modes that a caller of the kernels may be in.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <xmmintrin.h>
using Mode = unsigned;
constexpr Mode kFlush = 0x8040, kTowardZero = 0x6000, kUpward = 0x4000, kTrapped = 0x1e80;
inline Mode GetMode() { return _mm_getcsr(); }
inline void SetMode(Mode mode) { _mm_setcsr(mode); }
// The traps' bits are set where there are none; the lowest six say what has happened.
inline Mode ModeOf(Mode bits, bool traps) { return (bits | 0x1f80) & ~(traps ? kTrapped : 0); }
inline Mode Control(Mode mode) { return mode & ~0x3fu; }
#elif defined(__aarch64__)
using Mode = uint64_t;
constexpr Mode kFlush = 1 << 24, kTowardZero = 3 << 22, kUpward = 1 << 22, kTrapped = 0x1f00;
inline Mode GetMode() {
  Mode mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode)::"memory");
  return mode;
}
inline void SetMode(Mode mode) { asm volatile("msr fpcr, %0" ::"r"(mode) : "memory"); }
inline Mode ModeOf(Mode bits, bool traps) { return bits | (traps ? kTrapped : 0); }
inline Mode Control(Mode mode) { return mode; }
#endif

inline Mode NamedMode(const char *name) {
  const auto is = [name](const char *other) { return std::strcmp(name, other) == 0; };
  if (is("flush")) return ModeOf(kFlush, false);
  if (is("toward zero")) return ModeOf(kTowardZero, false);
  if (is("upward")) return ModeOf(kUpward, false);
  if (is("flush, upward, traps")) return ModeOf(kFlush | kUpward, true);
  return ModeOf(0, false);
}
