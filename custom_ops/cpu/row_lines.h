// Sums of hinges as lines.
//
// The sum of the hinges of sorted thresholds t_1 to t_m is a convex function of the score x. So it is the greatest of
// its lines: for any anchor a, and n from 0 to m,
//   sum over i of max(0, x - t_i) = max over n of n * (x - a) - sum over i <= n of (t_i - a).
// To take one more line into account is one operation less than to add one more hinge. A rounding of x - a counts n
// times: so few lines share an anchor, which is a threshold that is not greater than t_1.
#pragma once

#include <cmath>

#include "row_targets.h"

namespace mlml {
namespace MLML_ISA {
namespace {

// What a line is at its anchor, given the sum of (t_i - a).
float LineStart(double sum) {
  // No score is greater than a threshold of +inf. A finite sum that is too large makes the loss infinite, which is then
  // computed in double.
  return sum <= -kLowest ? static_cast<float>(-sum) : std::isfinite(sum) ? kInfinity : -kInfinity;
}

}  // namespace
}  // namespace MLML_ISA
}  // namespace mlml
