// Runs the kernels for another process, in a floating-point mode. usage: serve MODE
//
// A request is a line "SYMBOL COUNT", and for each array a line "DTYPE RANK DIMENSIONS", followed by its bytes; the
// last is the output. The answer is the output's bytes.
#include <dlfcn.h>

#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "kernels.h"
#include "mode.h"

int main(int, char **arguments) {
  std::string symbol;
  size_t count;
  while (std::cin >> symbol >> count) {
    std::vector<std::string> names(count);
    std::vector<std::vector<int64_t>> dims(count);
    std::vector<std::vector<char>> bytes(count);
    std::vector<void *> params;
    std::vector<int> ndims;
    std::vector<int64_t *> shapes;
    std::vector<const char *> dtypes;
    for (size_t i = 0; i < count; ++i) {
      size_t rank;
      std::cin >> names[i] >> rank;
      dims[i].resize(rank);
      size_t size = names[i] == "float16" ? 2 : 4;
      for (int64_t &dim : dims[i]) {
        std::cin >> dim;
        size *= static_cast<size_t>(dim);
      }
      std::cin.get();
      bytes[i].resize(size);
      std::cin.read(bytes[i].data(), static_cast<std::streamsize>(size));
      params.push_back(bytes[i].data());
      ndims.push_back(static_cast<int>(rank));
      shapes.push_back(dims[i].data());
      dtypes.push_back(names[i].c_str());
    }
    auto *const kernel = reinterpret_cast<Kernel *>(dlsym(RTLD_DEFAULT, symbol.c_str()));
    SetMode(NamedMode(arguments[1]));
    kernel(static_cast<int>(count), params.data(), ndims.data(), shapes.data(), dtypes.data(), nullptr, nullptr);
    SetMode(NamedMode("default"));
    std::cout.write(bytes.back().data(), static_cast<std::streamsize>(bytes.back().size()));
    std::cout.flush();
  }
}
