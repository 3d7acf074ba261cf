// Chooses the instruction set: the best that the processor has, or the one that the environment variable MLML_SIMD
// names.
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "row.h"

namespace mlml {

namespace baseline {
extern const RowKernels kFloat16, kFloat32;
}
#if defined(__x86_64__)
namespace avx2 {
extern const RowKernels kFloat16, kFloat32;
}
namespace avx512 {
extern const RowKernels kFloat16, kFloat32;
}
#endif

namespace {

#if defined(__x86_64__)
// Not all compilers know it as a feature that __builtin_cpu_supports takes.
bool HasF16c() {
  unsigned eax, ebx, ecx = 0, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

struct Level {
  const char *name;
  bool supported;
  const RowKernels &float16;
  const RowKernels &float32;
};

const Level &SelectLevel() {
  static const Level levels[] = {
#if defined(__x86_64__)
      {"avx512",
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl"),
       avx512::kFloat16, avx512::kFloat32},
      {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c(), avx2::kFloat16,
       avx2::kFloat32},
#endif
      {"baseline", true, baseline::kFloat16, baseline::kFloat32},
  };
  const char *wanted = std::getenv("MLML_SIMD");
  std::string names;
  for (const Level &level : levels) {
    if (!level.supported) continue;
    if (wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, level.name) == 0) return level;
    names += (names.empty() ? "" : ", ") + std::string(level.name);
  }
  throw std::invalid_argument("The environment variable MLML_SIMD must be one of " + names +
                              " on this processor, but got '" + wanted + "'.");
}

// Read once: Python may change the environment while a kernel runs in another thread.
const Level &LevelInUse() {
  static const Level &level = SelectLevel();
  return level;
}

}  // namespace

const RowKernels &SelectRowKernels(Dtype dtype) {
  return dtype == Dtype::kFloat16 ? LevelInUse().float16 : LevelInUse().float32;
}

}  // namespace mlml

// The name of the instruction set in use, or null if MLML_SIMD names none of this processor's.
MLML_EXPORT const char *MultilabelMarginLossSimd() {
  try {
    return mlml::LevelInUse().name;
  } catch (const std::exception &) {
    return nullptr;
  }
}
