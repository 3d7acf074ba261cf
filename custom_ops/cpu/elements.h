// Numbers of either dtype, read and written as float32.
#pragma once

#include <cstring>
#include <vector>

#include "../aot.h"
#include "float16.h"
#include "row.h"

namespace mlml {

struct Elements {
  Dtype dtype = Dtype::kFloat32;
  void *data = nullptr;

  int64_t Size() const { return dtype == Dtype::kFloat16 ? 2 : 4; }  // of one, in bytes
  void SetToZero(int64_t count) const { std::memset(data, 0, count * Size()); }
  void Set(int64_t index, double value) const {
    if (dtype == Dtype::kFloat16) {
      static_cast<Float16 *>(data)[index] = FromDouble<Float16>(value);
    } else {
      static_cast<float *>(data)[index] = static_cast<float>(value);
    }
  }
};

// Elements as float32: where they are, or a copy.
class Floats32 {
 public:
  const float *Load(const Elements &elements, int64_t begin, int64_t count) {
    if (elements.dtype == Dtype::kFloat32) return static_cast<const float *>(elements.data) + begin;
    copy_.resize(count);
    SelectRowKernels(elements.dtype).load(static_cast<const Float16 *>(elements.data) + begin, count, copy_.data());
    return copy_.data();
  }

 private:
  std::vector<float> copy_;
};

// Elements to be written, as float32: where they are, or in a buffer that Round writes to them.
class Output32 {
 public:
  float *Place(const Elements &elements, int64_t begin, int64_t count) {
    if (elements.dtype == Dtype::kFloat32) return static_cast<float *>(elements.data) + begin;
    buffer_.resize(count);
    return buffer_.data();
  }
  void Round(const Elements &elements, int64_t begin) const {
    if (elements.dtype == Dtype::kFloat32) return;
    const auto count = static_cast<int64_t>(buffer_.size());
    SelectRowKernels(elements.dtype).store(buffer_.data(), count, static_cast<Float16 *>(elements.data) + begin);
  }

 private:
  std::vector<float> buffer_;
};

}  // namespace mlml
