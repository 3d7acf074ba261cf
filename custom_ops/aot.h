// MindSpore's ahead-of-time ("aot") calling convention; nothing here is about this operator.
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
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

// MindSpore's numbers of dtypes (mindapi/base/type_id.h), which its saved models contain: they do not change.
enum TypeId : int { kNumberTypeInt32 = 34, kNumberTypeFloat32 = 43 };

// MindSpore's, as far as a library can use it: the sizes of the workspace that a kernel requests, which then comes
// as further parameters behind the outputs. <Kernel>Init sets them, once; shapes may change afterwards.
struct AotExtra {
  void *virtual_functions;
  std::vector<size_t> workspace;
};

#if defined(_WIN32)
#define MLML_EXPORT extern "C" __declspec(dllexport)
#else
#define MLML_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace mlml {

// For callers without C++ exceptions: what the kernel returns, or -1 with what() in `message` if it throws.
using Kernel = int(int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes, void *stream,
                   void *extra);
inline int CallKernel(Kernel *kernel, int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes,
                      void *stream, char *message, size_t size) {
  try {
    return kernel(nparam, params, ndims, shapes, dtypes, stream, nullptr);
  } catch (const std::exception &error) {
    (void)std::snprintf(message, size, "%s", error.what());
    return -1;
  }
}

enum class Dtype { kFloat16, kFloat32 };

[[noreturn]] inline void Fail(const char *function, const std::string &message) {
  throw std::invalid_argument("For '" + std::string(function) + "', " + message);
}

// A mistake in the values of the inputs, which several operators of one call may find. Only the first reports it.
struct InputError : std::invalid_argument {
  InputError(const char *function, const std::string &message)
      : std::invalid_argument("For '" + std::string(function) + "', " + message) {}
};

// The parameters of one call, of which none is trusted. `function` is what errors call the one that was called.
class Arguments {
 public:
  Arguments(const char *function, int nparam, void **params, const int *ndims, int64_t **shapes, const char **dtypes)
      : function_(function), nparam_(nparam), params_(params), ndims_(ndims), shapes_(shapes), dtypes_(dtypes) {}

  void Expect(int nparam) const {
    if (nparam_ != nparam) {
      Fail("the kernel takes " + std::to_string(nparam) + " parameters, but got " + std::to_string(nparam_) + ".");
    }
    if (params_ == nullptr || ndims_ == nullptr || shapes_ == nullptr || dtypes_ == nullptr) {
      Fail("the kernel got a null pointer instead of its parameters.");
    }
  }

  Dtype ReadDtype(int index, const char *name) const {
    if (HasDtype(index, "float32")) return Dtype::kFloat32;
    if (HasDtype(index, "float16")) return Dtype::kFloat16;
    Fail("the dtype of '" + std::string(name) + "' must be float16 or float32, but got " + DtypeName(index) + ".");
  }

  bool HasDtype(int index, const char *dtype) const {
    return dtypes_[index] != nullptr && std::strcmp(dtypes_[index], dtype) == 0;
  }

  std::string DtypeName(int index) const { return dtypes_[index] == nullptr ? "none" : dtypes_[index]; }

  int Rank(int index) const { return ndims_[index]; }

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

  // The number of elements, or -1 if it is too large.
  int64_t Elements(int index) const {
    int64_t elements = 1;
    bool overflows = false;
    for (int64_t dim : Shape(index)) overflows = __builtin_mul_overflow(elements, dim, &elements) || overflows;
    return overflows ? -1 : elements;
  }

  // Null is good enough for no elements.
  void *Pointer(int index, int64_t elements) const {
    if (params_[index] == nullptr && elements != 0) {
      Fail("parameter " + std::to_string(index) + " of the kernel is a null pointer.");
    }
    return params_[index];
  }

  // A parameter that must hold `size` elements of the dtype of the first one, which is called 'input'.
  void *Read(int index, const char *name, int64_t size) const {
    if (ReadDtype(index, name) != ReadDtype(0, "input")) {
      Fail("the dtype of '" + std::string(name) + "' must be that of 'input', but got " + DtypeName(index) + ".");
    }
    return ReadElements(index, name, size);
  }

  // The same for a dtype of its own.
  void *Read(int index, const char *name, const char *dtype, int64_t size) const {
    if (!HasDtype(index, dtype)) {
      Fail("the dtype of '" + std::string(name) + "' must be " + dtype + ", but got " + DtypeName(index) + ".");
    }
    return ReadElements(index, name, size);
  }

  // The memory that <Kernel>Init asked for: MindSpore gives it no shape and no dtype.
  void *Workspace(int index) const { return Pointer(index, 1); }

  [[noreturn]] void Fail(const std::string &message) const { mlml::Fail(function_, message); }
  [[noreturn]] void FailInput(const std::string &message) const { throw InputError(function_, message); }

  // Calls run(), for an operator of which another one has reported each mistake in the inputs. If there is one, it
  // returns false, and the parameters from `outputs` on are NaN, or -1 where they are integers. For memory of a CPU.
  template <class Run>
  bool RunAfterReport(int outputs, Run run) const {
    try {
      run();
      return true;
    } catch (const InputError &) {
      for (int index = outputs; index < nparam_; ++index) SetToNan(index);
      return false;
    }
  }

 private:
  void *ReadElements(int index, const char *name, int64_t size) const {
    if (Elements(index) != size) {
      Fail("'" + std::string(name) + "' must have " + std::to_string(size) + " elements, but got shape " +
           ShapeName(index) + ".");
    }
    return Pointer(index, size);
  }

  void SetToNan(int index) const {
    const int64_t size = std::max<int64_t>(Elements(index), 0) * (HasDtype(index, "float16") ? 2 : 4);
    if (size > 0) std::memset(Pointer(index, size), 0xff, size);
  }

  const char *function_;
  int nparam_;
  void **params_;
  const int *ndims_;
  int64_t **shapes_;
  const char **dtypes_;
};

}  // namespace mlml
