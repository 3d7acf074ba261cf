// Chooses the instruction set: the best that the processor has, or the one that the environment variable MLML_SIMD
// names.
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <cstring>
#include <string>

#include "row.h"

namespace mlml {

#if defined(__aarch64__)
namespace neon {
extern const RowKernels kFloat16, kFloat32;
}
#else
namespace baseline {
extern const RowKernels kFloat16, kFloat32;
}
#endif
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
bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool HasAvx2() {
  // Not all compilers know F16C as a feature that __builtin_cpu_supports takes.
  unsigned eax, ebx, ecx = 0, edx;
  const bool has_f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c;
}
#endif

struct Isa {
  const char *name;
  bool (*supported)();  // by the processor
  const RowKernels &float16;
  const RowKernels &float32;
};

// The best first.
constexpr Isa kIsas[] = {
#if defined(__x86_64__)
    {"avx512", HasAvx512, avx512::kFloat16, avx512::kFloat32},
    {"avx2", HasAvx2, avx2::kFloat16, avx2::kFloat32},
#endif
#if defined(__aarch64__)
    {"neon", [] { return true; }, neon::kFloat16, neon::kFloat32},
#else
    {"baseline", [] { return true; }, baseline::kFloat16, baseline::kFloat32},
#endif
};

// The names of those that the processor has.
std::string NamesOfSupported(const char *between) {
  std::string names;
  for (const Isa &isa : kIsas) {
    if (isa.supported()) names += (names.empty() ? "" : between) + std::string(isa.name);
  }
  return names;
}

const Isa &SelectIsa() {
  const char *wanted = std::getenv("MLML_SIMD");
  for (const Isa &isa : kIsas) {
    if (isa.supported() && (wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, isa.name) == 0)) return isa;
  }
  throw std::invalid_argument("The environment variable MLML_SIMD must be one of " + NamesOfSupported(", ") +
                              " on this processor, but got '" + wanted + "'.");
}

// Read once: Python may change the environment while a kernel runs in another thread.
const Isa &IsaInUse() {
  static const Isa &isa = SelectIsa();
  return isa;
}

}  // namespace

const RowKernels &SelectRowKernels(Dtype dtype) {
  return dtype == Dtype::kFloat16 ? IsaInUse().float16 : IsaInUse().float32;
}

}  // namespace mlml

// The name of the instruction set in use, or null if MLML_SIMD names none of this processor's.
MLML_EXPORT const char *MultilabelMarginLossIsa() {
  try {
    return mlml::IsaInUse().name;
  } catch (const std::exception &) {
    return nullptr;
  }
}

// The names of all that this processor has, the best first, with spaces between them.
MLML_EXPORT const char *MultilabelMarginLossIsas() {
  static const std::string names = mlml::NamesOfSupported(" ");
  return names.c_str();
}
