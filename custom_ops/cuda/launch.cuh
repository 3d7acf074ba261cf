// How a batch is divided among blocks of threads, and how kernels are started.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "../operator.h"
#include "check.cuh"

namespace mlml {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Work partitioning. It depends on the shapes alone, not on the GPU.

constexpr int64_t kShortRow = 128;  // classes
// Few rows are cut into pieces, of kLeastPiece classes at least: until the blocks fill a GPU once, and, if a block then
// has more than kLongPiece classes, further, so that a last round of blocks that does not fill it costs little.
constexpr int64_t kBlocksOfOneRound = 512;
constexpr int64_t kBlocksOfManyRounds = 2048;
constexpr int64_t kLeastPiece = 2048;
constexpr int64_t kLongPiece = 16384;
// As many blocks write a partial sum of the loss, and as many rows have counters for their gradient, at most.
constexpr int64_t kMaxBlocks = 4096;
constexpr int64_t kMaxSharedRows = kBlocksOfManyRounds / 2;
constexpr int64_t kMaxGrid = 1 << 20;

// ---------------------------------------------------------------------------------------------------------------------
// Starting the kernels. Nothing here waits for the GPU, or allocates, unless MLML_CHECK_TARGETS asks for it.

inline void Check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that nobody else is told of it too
  throw std::runtime_error(std::string("CUDA says of a kernel of mindspore_mlml: ") + cudaGetErrorString(error) + ".");
}

// The arguments are converted to the kernel's parameters, whose types are not deduced from them.
template <class... Parameters>
void Launch(void (*kernel)(Parameters...), int64_t blocks, int threads, cudaStream_t stream,
            std::common_type_t<Parameters>... arguments) {
  void *pointers[] = {&arguments...};
  Check(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(threads), pointers, 0, stream));
}

// Whether mistakes are to be found, which waits for the GPU.
inline bool WantsChecks() {
  const char *wanted = std::getenv("MLML_CHECK_TARGETS");
  return wanted != nullptr && std::strcmp(wanted, "1") == 0;
}

// Throws if a target is out of range, where that is wanted.
inline void CheckTargets(const Batch &batch, void *workspace, cudaStream_t stream) {
  if (!WantsChecks()) return;
  auto *first = static_cast<unsigned long long *>(workspace);
  Check(cudaMemsetAsync(first, 0xff, sizeof(*first), stream));
  Launch(FindOutOfRange<kThreads>, std::min(batch.labels.rows, kMaxBlocks), kThreads, stream, batch.labels.data,
         batch.labels.rows, batch.labels.num_classes, batch.labels.num_labels, first);
  unsigned long long found;
  Check(cudaMemcpyAsync(&found, first, sizeof(found), cudaMemcpyDeviceToHost, stream));
  Check(cudaStreamSynchronize(stream));
  if (found == ~0ull) return;
  int32_t value;
  Check(cudaMemcpyAsync(&value, batch.labels.data + found, sizeof(value), cudaMemcpyDeviceToHost, stream));
  Check(cudaStreamSynchronize(stream));
  const auto position = static_cast<int64_t>(found);
  FailTarget(batch.labels, position / batch.labels.num_labels, position % batch.labels.num_labels, value);
}

template <class T, bool kSlice = false>
Problem<T, kSlice> Divide(const Batch &batch) {
  const int64_t blocks =
      std::min(std::max(batch.labels.rows * batch.scores.classes / kLongPiece, kBlocksOfOneRound), kBlocksOfManyRounds);
  const int64_t most = (batch.scores.classes + kLeastPiece - 1) / kLeastPiece;
  const int64_t pieces = std::max<int64_t>(std::min(blocks / batch.labels.rows, most), 1);
  const int64_t piece = (batch.scores.classes + pieces - 1) / pieces;
  return {{},
          static_cast<const T *>(batch.scores.data),
          batch.labels.data,
          batch.labels.rows,
          batch.scores.classes,
          batch.labels.num_labels,
          (batch.scores.classes + piece - 1) / piece,
          piece};
}

}  // namespace
}  // namespace mlml
