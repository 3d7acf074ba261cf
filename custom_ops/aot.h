// MindSpore's ahead-of-time ("aot") calling convention, and how this library reads it.
//
// MindSpore calls a kernel as
//   int Kernel(int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes, void *stream, void *extra)
// with the inputs first and the outputs after them. When the operator was registered without shape and dtype functions
// it also asks <Kernel>InferShape and <Kernel>InferType. A kernel fails by throwing a std::exception: its what()
// reaches the user as a RuntimeError, whereas a return code would reach them as a bare number.
//
// None of this needs a MindSpore header, so one library serves every MindSpore and every Python version.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "definition.h"

enum TypeId : int {};  // MindSpore's; only ever copied from an input to an output

// MindSpore's, as far as a library can use it: the sizes of the memory that a kernel wants to be lent, which then comes
// as further parameters behind the outputs. <Kernel>Init sets them, once; shapes may change afterwards.
struct AotExtra {
  void *virtual_functions;
  std::vector<size_t> workspace;
};

#define MLML_EXPORT extern "C" __attribute__((visibility("default")))

namespace mlml {

enum class Dtype { kFloat16, kFloat32 };

// What the caller calls the function and its second argument.
struct Names {
  const char *function;
  const char *target;
};

// The matrix of scores, rows x classes, and the matrix of labels, rows x num_labels, behind one call. A 1-D input is
// one row.
struct Batch {
  Dtype dtype = Dtype::kFloat32;
  const void *input = nullptr;
  const int32_t *target = nullptr;
  bool is_matrix = false;
  int64_t rows = 0;
  int64_t classes = 0;
  int64_t num_labels = 0;  // of a row
  Names names = {};
};

[[noreturn]] inline void Fail(const Names &names, const std::string &message) {
  throw std::invalid_argument("For '" + std::string(names.function) + "', " + message);
}

// A target that is not a class.
[[noreturn]] inline void FailTarget(const Batch &batch, int64_t row, int64_t position, int32_t value) {
  const std::string target = batch.names.target;
  Fail(batch.names, "a value of '" + target + "' must be less than the number of classes, " +
                        std::to_string(batch.classes) + ", but got " + target +
                        (batch.is_matrix ? "[" + std::to_string(row) + "]" : "") + "[" + std::to_string(position) +
                        "] = " + std::to_string(value) + ".");
}

class Arguments {
 public:
  Arguments(const Names &names, int nparam, void **params, const int *ndims, int64_t **shapes, const char **dtypes)
      : names_(names), nparam_(nparam), params_(params), ndims_(ndims), shapes_(shapes), dtypes_(dtypes) {}

  void Expect(int nparam) const {
    if (nparam_ != nparam) {
      Fail("the kernel takes " + std::to_string(nparam) + " parameters, but got " + std::to_string(nparam_) + ".");
    }
    if (params_ == nullptr || ndims_ == nullptr || shapes_ == nullptr || dtypes_ == nullptr) {
      Fail("the kernel got a null pointer instead of its parameters.");
    }
  }

  // Parameters 0 and 1 of every kernel.
  Batch ReadBatch() const {
    Batch batch;
    batch.names = names_;
    const std::string target_name = "'" + std::string(names_.target) + "'";
    batch.dtype = ReadDtype(0, "input");
    if (dtypes_[1] == nullptr || std::strcmp(dtypes_[1], "int32") != 0) {
      Fail("the dtype of " + target_name + " must be int32, but got " + DtypeName(1) + ".");
    }
    if (ndims_[0] != 1 && ndims_[0] != 2) {
      Fail("the rank of 'input' must be 1 or 2, but got " + std::to_string(ndims_[0]) + ".");
    }
    batch.is_matrix = ndims_[0] == 2;
    const std::vector<int64_t> input = Shape(0), target = Shape(1);
    if (target.size() != input.size() || (batch.is_matrix && target[0] != input[0])) {
      Fail(target_name + " must have as many rows as 'input', whose shape is " + ShapeName(0) + ", but got shape " +
           ShapeName(1) + ".");
    }
    batch.rows = batch.is_matrix ? input[0] : 1;
    batch.classes = input.back();
    batch.num_labels = target.back();
    if (batch.rows < 0 || batch.classes <= 0) {
      Fail("the number of classes must be positive, but got an 'input' of shape " + ShapeName(0) + ".");
    }
    int64_t bytes;  // of the largest array
    if (__builtin_mul_overflow(batch.rows, std::max(batch.classes, batch.num_labels), &bytes) ||
        __builtin_mul_overflow(bytes, int64_t{sizeof(float)}, &bytes)) {
      Fail("'input' or " + target_name + " is too large: shapes " + ShapeName(0) + " and " + ShapeName(1) + ".");
    }
    if (batch.num_labels <= 0) {
      Fail("a row of " + target_name + " must have at least one label, but got shape " + ShapeName(1) + ".");
    }
    batch.input = Pointer(0, batch.rows * batch.classes);
    batch.target = static_cast<const int32_t *>(Pointer(1, batch.rows * batch.num_labels));
    return batch;
  }

  // A further parameter, which must hold `size` elements of the input's dtype.
  void *Read(int index, const char *name, int64_t size) const {
    if (ReadDtype(index, name) != ReadDtype(0, "input")) {
      Fail("the dtype of '" + std::string(name) + "' must be that of 'input', but got " + DtypeName(index) + ".");
    }
    int64_t elements = 1;
    bool overflows = false;
    for (int64_t dim : Shape(index)) overflows = __builtin_mul_overflow(elements, dim, &elements) || overflows;
    if (overflows || elements != size) {
      Fail("'" + std::string(name) + "' must have " + std::to_string(size) + " elements, but got shape " +
           ShapeName(index) + ".");
    }
    return Pointer(index, size);
  }

  // The memory that <Kernel>Init asked for: MindSpore gives it no shape and no dtype.
  void *Workspace(int index) const { return Pointer(index, 1); }

 private:
  [[noreturn]] void Fail(const std::string &message) const { mlml::Fail(names_, message); }

  Dtype ReadDtype(int index, const char *name) const {
    if (dtypes_[index] != nullptr && std::strcmp(dtypes_[index], "float32") == 0) return Dtype::kFloat32;
    if (dtypes_[index] != nullptr && std::strcmp(dtypes_[index], "float16") == 0) return Dtype::kFloat16;
    Fail("the dtype of '" + std::string(name) + "' must be float16 or float32, but got " + DtypeName(index) + ".");
  }

  void *Pointer(int index, int64_t elements) const {
    if (params_[index] == nullptr && elements != 0) {
      Fail("parameter " + std::to_string(index) + " of the kernel is a null pointer.");
    }
    return params_[index];
  }

  std::vector<int64_t> Shape(int index) const {
    if (ndims_[index] < 0 || (ndims_[index] > 0 && shapes_[index] == nullptr)) {
      Fail("parameter " + std::to_string(index) + " of the kernel has no shape.");
    }
    return {shapes_[index], shapes_[index] + ndims_[index]};
  }

  std::string ShapeName(int index) const {
    std::string name;
    for (int64_t dim : Shape(index)) name += (name.empty() ? "" : ", ") + std::to_string(dim);
    return "(" + name + (ndims_[index] == 1 ? ",)" : ")");
  }

  std::string DtypeName(int index) const { return dtypes_[index] == nullptr ? "none" : dtypes_[index]; }

  Names names_;
  int nparam_;
  void **params_;
  const int *ndims_;
  int64_t **shapes_;
  const char **dtypes_;
};

}  // namespace mlml
