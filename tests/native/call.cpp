// Calls a kernel as MindSpore does: an exception becomes a message.
#include <cstdint>
#include <cstdio>
#include <exception>

using Kernel = int (*)(int, void **, int *, int64_t **, const char **, void *, void *);

// Returns what the kernel returns, or -1 with what() in `message` if it throws.
extern "C" int CallKernel(Kernel kernel, int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes,
                          char *message, size_t size) {
  try {
    return kernel(nparam, params, ndims, shapes, dtypes, nullptr, nullptr);
  } catch (const std::exception &error) {
    std::snprintf(message, size, "%s", error.what());
    return -1;
  }
}
