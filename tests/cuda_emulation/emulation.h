// Runs CUDA kernels on a CPU, one block after the other, so that their logic is tested where there is no GPU.
//
// Each thread of a block is a fiber, which runs until the next barrier; the order of the threads between two barriers
// is random, so that a result that depends on it shows. Just what custom_ops/cuda uses is here. It says nothing about
// speed, nor about what nvcc makes of the source.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

struct dim3 {
  explicit dim3(unsigned x = 1) : x(x) {}
  unsigned x;
};

namespace emulation {

class Block {
 public:
  static Block &Current() {
    static Block block;
    return block;
  }

  void Run(unsigned threads, const std::function<void()> &kernel) {
    kernel_ = &kernel;
    while (fibers_.size() < threads) fibers_.push_back(std::make_unique<Fiber>());
    std::vector<unsigned> order(threads);
    for (unsigned i = 0; i < threads; ++i) {
      order[i] = i;
      fibers_[i]->done = false;
    }
    for (bool running = true; running;) {
      std::shuffle(order.begin(), order.end(), random_);
      unsigned waiting = 0;
      votes_ = 0;
      for (unsigned thread : order) {
        if (fibers_[thread]->done) continue;
        running_ = thread;
        Switch(&scheduler_, &fibers_[thread]->context);
        waiting += !fibers_[thread]->done;
      }
      if (waiting != 0 && waiting != threads) {
        std::fprintf(stderr, "only %u of %u threads are at a barrier\n", waiting, threads);
        std::abort();
      }
      result_ = votes_;
      running = waiting != 0;
    }
  }

  int Barrier(int vote) {
    votes_ |= vote != 0;
    Switch(&fibers_[running_]->context, &scheduler_);
    return result_;
  }

  dim3 Thread() const { return dim3(running_); }

 private:
  struct Context {
    ucontext_t start;  // of a fiber: where it begins
    jmp_buf registers;
    bool is_started = true;
  };

  // Runs the kernel once for each block that it is a thread of.
  struct Fiber {
    Context context;
    std::vector<char> stack = std::vector<char>(1 << 17);
    bool done = false;

    Fiber() {
      getcontext(&context.start);
      context.start.uc_stack.ss_sp = stack.data();
      context.start.uc_stack.ss_size = stack.size();
      context.is_started = false;
      makecontext(&context.start, Enter, 0);
    }
  };

  static void Enter() {
    Block &block = Current();
    for (;;) {
      Fiber *fiber = block.fibers_[block.running_].get();
      (*block.kernel_)();
      fiber->done = true;
      Switch(&fiber->context, &block.scheduler_);
    }
  }

  static void Switch(Context *from, Context *to) {
#if defined(__SANITIZE_ADDRESS__)
    swapcontext(&from->start, &to->start);
#else  // without system calls
    if (_setjmp(from->registers) != 0) return;
    if (to->is_started) _longjmp(to->registers, 1);
    to->is_started = true;
    setcontext(&to->start);
#endif
  }

  const std::function<void()> *kernel_ = nullptr;
  Context scheduler_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  unsigned running_ = 0;
  int votes_ = 0, result_ = 0;
  std::mt19937 random_{std::random_device{}()};
};

}  // namespace emulation

inline dim3 blockIdx, gridDim;
#define threadIdx (emulation::Block::Current().Thread())

namespace emulation {

template <class... Parameters, size_t... kIndices>
void Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, void **arguments, std::index_sequence<kIndices...>) {
  gridDim = grid;
  for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
    Block::Current().Run(block.x, [=] { kernel(*static_cast<Parameters *>(arguments[kIndices])...); });
  }
}

}  // namespace emulation

inline void __syncthreads() { emulation::Block::Current().Barrier(0); }
inline int __syncthreads_or(int vote) { return emulation::Block::Current().Barrier(vote); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(value); }

template <class T>
T atomicAdd(T *to, T value) {
  return std::exchange(*to, *to + value);
}
template <class T>
T atomicOr(T *to, T value) {
  return std::exchange(*to, *to | value);
}
template <class T>
T atomicMin(T *to, T value) {
  return std::exchange(*to, std::min(*to, value));
}

struct __half {
  _Float16 value;
};
inline float __half2float(__half half) { return half.value; }
inline __half __double2half(double value) { return {static_cast<_Float16>(value)}; }

using cudaStream_t = void *;
using cudaError_t = int;
constexpr int cudaSuccess = 0, cudaMemcpyDeviceToHost = 2;
inline const char *cudaGetErrorString(int) { return ""; }
inline int cudaGetLastError() { return cudaSuccess; }
template <class... Parameters>
int cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, void **arguments, size_t, cudaStream_t) {
  emulation::Launch(kernel, grid, block, arguments, std::index_sequence_for<Parameters...>());
  return cudaSuccess;
}
inline int cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline int cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
inline int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

namespace cub {

template <class T, int kThreads>
struct BlockReduce {
  struct TempStorage {
    T values[kThreads];
  };
  explicit BlockReduce(TempStorage &storage) : values(storage.values) {}
  T Sum(T value) {  // known to the first thread only
    values[threadIdx.x] = value;
    __syncthreads();
    T sum = 0;
    for (int i = 0; threadIdx.x == 0 && i < kThreads; ++i) sum += values[i];
    return sum;
  }
  T *values;
};

template <class T, int kThreads>
struct BlockScan {
  struct TempStorage {
    T values[kThreads];
  };
  explicit BlockScan(TempStorage &storage) : values(storage.values) {}
  void ExclusiveSum(T value, T &before) {
    values[threadIdx.x] = value;
    __syncthreads();
    before = 0;
    for (unsigned i = 0; i < threadIdx.x; ++i) before += values[i];
  }
  T *values;
};

template <class Key, int kThreads, int kItems>
struct BlockMergeSort {
  struct TempStorage {
    Key keys[kThreads * kItems];
  };
  explicit BlockMergeSort(TempStorage &storage) : all(storage.keys) {}
  template <class Less>
  void Sort(Key (&keys)[kItems], Less less) {
    for (int i = 0; i < kItems; ++i) all[threadIdx.x * kItems + i] = keys[i];
    __syncthreads();
    if (threadIdx.x == 0) std::sort(all, all + kThreads * kItems, less);
    __syncthreads();
    for (int i = 0; i < kItems; ++i) keys[i] = all[threadIdx.x * kItems + i];
  }
  Key *all;
};

}  // namespace cub
