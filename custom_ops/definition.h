// What the kernels for a CPU and for a GPU must agree on.
//
// A row has scores x[0..C) and labels y. Let T be the position of the first negative label (C if there is none): the
// targets are y[0..T), as a list in which a class may repeat, and P is the set of classes in it; the others are not
// targets.
//   loss        = 1/C * sum over j < T, i not in P of max(0, 1 - x[y_j] + x_i)
//   d loss/dx_i = k_i/C for i not in P, with k_i = #{j : 1 - x[y_j] + x_i > 0}, and
//   d loss/dx_p = -1/C * sum over j with y_j = p of #{i not in P : 1 - x[p] + x_i > 0}
// Infinities are what this formula makes of them. A NaN anywhere in a row that has targets makes its loss and its whole
// gradient NaN.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || \
    defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__)
#error "The kernels need NaN, infinities and ordered sums: compile without -ffast-math, -Ofast or parts of them."
#endif

#if defined(__CUDACC__)
#define MLML_HOST_DEVICE __host__ __device__
#else
#define MLML_HOST_DEVICE
#endif

namespace mlml {

enum class Reduction { kNone, kMean, kSum };

// What the sum of the rows' losses, and with it the gradient, is divided by. The mean of no rows is 0.
inline double Divisor(Reduction reduction, int64_t rows) {
  return reduction == Reduction::kMean ? static_cast<double>(std::max<int64_t>(rows, 1)) : 1.0;
}

// What a dout is divided by to get the gradient of one pair of a target and a class that is active with it.
inline double GradientDivisor(Reduction reduction, int64_t rows, int64_t classes) {
  return static_cast<double>(classes) * Divisor(reduction, rows);
}

// For a target with score p, 1 - p + x > 0 holds in float32 exactly if x is greater than this. Of a float, or of a
// vector of them.
template <class Floats>
MLML_HOST_DEVICE inline Floats Threshold(Floats p) {
  return -(1.0f - p);
}

// The same for sorting, which a NaN would disturb: with one, the row's result is NaN whatever this is.
MLML_HOST_DEVICE inline float SortableThreshold(float p) {
  const float threshold = Threshold(p);
  return threshold == threshold ? threshold : INFINITY;
}

// So few pairs of a target and a class are looked at one by one: each hinge is rounded to float32, and they are added
// in double. The documented 0.325 hangs on it.
MLML_HOST_DEVICE inline bool HasFewPairs(int64_t num_targets, int64_t classes) { return num_targets * classes <= 1024; }

// What was found in a part of a row that is not finite, to be combined with |. "Other" classes are not targets.
enum Flags : int {
  kNan = 1,         // of any class; on a GPU also a target out of range
  kHighTarget = 2,  // +inf
  kLowTarget = 4,   // -inf
  kHighOther = 8,
  kLowOther = 16,
  kAnyOther = 32,  // whatever its score is
};
constexpr int kAllFlags = 63;

MLML_HOST_DEVICE inline int FlagsOfTarget(float score) {
  return (score != score ? kNan : 0) | (score == INFINITY ? kHighTarget : 0) | (score == -INFINITY ? kLowTarget : 0);
}

MLML_HOST_DEVICE inline int FlagsOfOther(float score) {
  return kAnyOther | (score != score ? kNan : 0) | (score == INFINITY ? kHighOther : 0) |
         (score == -INFINITY ? kLowOther : 0);
}

// Whether the row's sum is known from these flags, whatever its hinges are.
MLML_HOST_DEVICE inline bool DecideSum(int64_t flags) { return (flags & (kNan | kHighOther | kLowTarget)) != 0; }

// A part of a row, or all of it: the sum of the hinges of its classes, in which those of -inf add nothing, and its
// flags, which may be 0 where everything is finite.
struct PartialSum {
  double sum;
  int64_t flags;
};

// The sum of a row's hinges, from all of its parts.
MLML_HOST_DEVICE inline double RowSum(const PartialSum &row) {
  const auto has = [&](int flags) { return (row.flags & flags) == flags; };
  if (has(kNan) || has(kHighTarget | kHighOther) || has(kLowTarget | kLowOther)) return NAN;  // inf - inf
  if (has(kHighOther)) return INFINITY;
  if (has(kLowTarget)) return has(kAnyOther) ? INFINITY : 0;
  return row.sum;
}

}  // namespace mlml
