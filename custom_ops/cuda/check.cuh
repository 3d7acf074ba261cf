// The search for a target that is not a class, of which the other kernels make NaN.
#pragma once

#include "row.cuh"

namespace mlml {
namespace {

// The position, in the whole of `target`, of the first target that is out of range.
template <int kBlock>
__global__ void __launch_bounds__(kBlock, kResidentThreads / kBlock)
    FindOutOfRange(const int32_t *target, int64_t rows, int64_t classes, int64_t num_labels,
                   unsigned long long *first) {
  __shared__ int end;
  for (int64_t index = blockIdx.x; index < rows; index += gridDim.x) {
    VisitTargets<kBlock>(target + index * num_labels, num_labels, &end, [&](int64_t j, int32_t label) {
      if (label >= classes) atomicMin(first, static_cast<unsigned long long>(index * num_labels + j));
    });
    __syncthreads();
  }
}

}  // namespace
}  // namespace mlml
