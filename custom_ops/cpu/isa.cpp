// Chooses the instruction set: the best that the processor has, or the one that the environment variable MLML_SIMD
// names.
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#include <cstdlib>
#include <cstring>
#include <string>

#include "linear_kernels.h"
#include "row.h"

namespace mlml {

#if defined(__aarch64__)
namespace neon {
extern const RowKernels kFloat16, kFloat32;
extern const LinearKernels kLinear;
}  // namespace neon
#else
namespace baseline {
extern const RowKernels kFloat16, kFloat32;
extern const LinearKernels kLinear;
}  // namespace baseline
#endif
#if defined(__x86_64__)
namespace avx2 {
extern const RowKernels kFloat16, kFloat32;
extern const LinearKernels kLinear;
}  // namespace avx2
namespace avx512 {
extern const RowKernels kFloat16, kFloat32;
extern const LinearKernels kLinear;
}  // namespace avx512
#endif

namespace {

#if defined(__x86_64__)
// What the processor has, and the operating system lets programs use. Not by __builtin_cpu_supports, which is always
// false where a library that is linked with a compiler's own runtime did not ask first (zig's).
struct Features {
  bool avx2, avx512;
};

// The registers that the operating system saves, a bit for each kind.
__attribute__((target("xsave"))) uint64_t SavedRegisters() { return _xgetbv(0); }

Features FindFeatures() {
  unsigned eax, ebx, ecx, edx;
  constexpr unsigned kBasic = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kBasic) != kBasic) return {false, false};
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return {false, false};
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6;
  constexpr unsigned kAvx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  const uint64_t saved = SavedRegisters();
  const bool avx2 = (saved & kYmm) == kYmm && (ebx & bit_AVX2) != 0;
  return {avx2, avx2 && (saved & kZmm) == kZmm && (ebx & kAvx512) == kAvx512};
}

bool HasAvx512() { return FindFeatures().avx512; }
bool HasAvx2() { return FindFeatures().avx2; }
#endif

struct Isa {
  const char *name;
  bool (*supported)();  // by the processor
  const RowKernels &float16;
  const RowKernels &float32;
  const LinearKernels &linear;
};

// The best first.
constexpr Isa kIsas[] = {
#if defined(__x86_64__)
    {"avx512", HasAvx512, avx512::kFloat16, avx512::kFloat32, avx512::kLinear},
    {"avx2", HasAvx2, avx2::kFloat16, avx2::kFloat32, avx2::kLinear},
#endif
#if defined(__aarch64__)
    {"neon", [] { return true; }, neon::kFloat16, neon::kFloat32, neon::kLinear},
#else
    {"baseline", [] { return true; }, baseline::kFloat16, baseline::kFloat32, baseline::kLinear},
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

const LinearKernels &SelectLinearKernels() { return IsaInUse().linear; }

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
