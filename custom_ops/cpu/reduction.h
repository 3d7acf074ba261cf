// From the rows' losses to the loss, and from its gradient back to theirs.
#pragma once

#include <vector>

#include "../operator.h"
#include "float16.h"

namespace mlml {

inline int64_t LossSize(const Labels &labels, Reduction reduction) {
  return reduction == Reduction::kNone ? labels.rows : 1;
}

template <class T>
void Reduce(const std::vector<double> &losses, Reduction reduction, T *loss) {
  double sum = 0;
  for (size_t row = 0; row < losses.size(); ++row) {
    if (reduction == Reduction::kNone) loss[row] = FromDouble<T>(losses[row]);
    sum += losses[row];
  }
  if (reduction != Reduction::kNone) {
    loss[0] = FromDouble<T>(sum / Divisor(reduction, static_cast<int64_t>(losses.size())));
  }
}

inline void Reduce(const std::vector<double> &losses, Dtype dtype, Reduction reduction, void *loss) {
  dtype == Dtype::kFloat16 ? Reduce(losses, reduction, static_cast<Float16 *>(loss))
                           : Reduce(losses, reduction, static_cast<float *>(loss));
}

// The gradient of an active pair of a row, given dout.
class Scale {
 public:
  Scale(const Labels &labels, Dtype dtype, Reduction reduction, const void *dout)
      : dtype_(dtype),
        by_row_(reduction == Reduction::kNone),
        divisor_(GradientDivisor(reduction, labels.rows, labels.num_classes)),
        dout_(dout) {}

  double operator()(int64_t row) const {
    const int64_t index = by_row_ ? row : 0;
    const float dout = dtype_ == Dtype::kFloat16 ? ToFloat(static_cast<const Float16 *>(dout_)[index])
                                                 : static_cast<const float *>(dout_)[index];
    return dout / divisor_;
  }

 private:
  Dtype dtype_;
  bool by_row_;
  double divisor_;
  const void *dout_;
};

}  // namespace mlml
