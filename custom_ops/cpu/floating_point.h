// Floating point as the kernels need it, whatever mode the calling thread is in.
//
// Libraries switch it: MindSpore's on aarch64, when it is imported, sets the mode in which denormal numbers are flushed
// to 0. Most gradients in float16 are denormal.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace mlml {

// While it lives, this thread rounds to the nearest number, keeps denormal ones and does not trap.
class StandardFloatingPoint {
 public:
  StandardFloatingPoint() : callers_(Get()) {
    if (callers_ != kStandard) Set(kStandard);
  }
  ~StandardFloatingPoint() {
    if (Get() != callers_) Set(callers_);
  }
  StandardFloatingPoint(const StandardFloatingPoint &) = delete;
  StandardFloatingPoint &operator=(const StandardFloatingPoint &) = delete;

 private:
#if defined(__x86_64__)
  using Mode = unsigned;
  static constexpr Mode kStandard = 0x1f80;
  static Mode Get() { return _mm_getcsr(); }
  static void Set(Mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
  using Mode = uint64_t;
  static constexpr Mode kStandard = 0;
  static Mode Get() {
    Mode mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode)::"memory");
    return mode;
  }
  static void Set(Mode mode) { asm volatile("msr fpcr, %0" ::"r"(mode) : "memory"); }
#else
  using Mode = int;
  static constexpr Mode kStandard = 0;
  static Mode Get() { return kStandard; }
  static void Set(Mode) {}
#endif

  const Mode callers_;
};

// A call of its own: compilers move arithmetic across a change of the mode, but not such a call.
template <class Work>
__attribute__((noinline)) void CallApart(const Work &work) {
  work();
}

// Calls work() in that mode.
template <class Work>
void InStandardFloatingPoint(const Work &work) {
  const StandardFloatingPoint mode;
  CallApart(work);
}

}  // namespace mlml
