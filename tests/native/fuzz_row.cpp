// A libFuzzer target: the bytes are one row, its labels and how to call the kernels; see tools/fuzz_row.py. The result
// is compared with the formula. Without libFuzzer, -DREPLAY makes a program that runs the files it is given.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>

#include "kernels.h"

namespace {

// Reads values from the front of the input, zeros once it is used up.
class Reader {
 public:
  Reader(const uint8_t *data, size_t size) : data_(data), size_(size) {}
  template <class T>
  T Read() {
    T value{};
    const size_t count = std::min(sizeof(T), size_);
    std::memcpy(&value, data_, count);
    data_ += count;
    size_ -= count;
    return value;
  }

 private:
  const uint8_t *data_;
  size_t size_;
};

void Require(bool condition, const char *what) {
  if (condition) return;
  std::fprintf(stderr, "wrong: %s\n", what);
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Reader reader(data, size);
  const auto classes = static_cast<int64_t>(reader.Read<uint16_t>() % 2200 + 1);
  const auto labels = static_cast<int64_t>(reader.Read<uint16_t>() % 600 + 1);
  MultilabelMarginLossSetThreads(reader.Read<uint8_t>() % 4 + 1);
  Batch batch(1, classes, labels, 0);
  const bool any_label = reader.Read<uint8_t>() % 8 == 0;
  for (int32_t &label : batch.target) {
    const auto value = reader.Read<int16_t>();
    label = any_label ? value : static_cast<int32_t>(value % classes);
  }
  const bool any_float = reader.Read<uint8_t>() % 2 == 0;
  for (float &score : batch.input) {
    score = any_float ? reader.Read<float>() : static_cast<float>(reader.Read<int8_t>()) / 8;
  }

  std::set<int32_t> classes_of_targets;
  int64_t targets = 0;
  bool out_of_range = false, has_nan = false, finite = true;
  for (; targets < labels && batch.target[targets] >= 0; ++targets) {
    out_of_range = out_of_range || batch.target[targets] >= classes;
    classes_of_targets.insert(batch.target[targets]);
  }
  double largest = 1;
  for (float score : batch.input) {
    has_nan = has_nan || std::isnan(score);
    finite = finite && std::isfinite(score);
    if (std::isfinite(score)) largest = std::max(largest, std::fabs(static_cast<double>(score)));
  }
  const std::vector<float> input = batch.input;
  try {
    batch.Forward();
    batch.Backward();
    Require(!out_of_range, "a target out of range was taken");
  } catch (const std::exception &) {
    Require(out_of_range, "an error without a target out of range");
    return 0;
  }
  Require(std::memcmp(input.data(), batch.input.data(), input.size() * sizeof(float)) == 0, "the input was changed");
  if (targets == 0) {
    Require(batch.loss[0] == 0, "the loss without targets");
    return 0;
  }
  Require(!has_nan || (std::isnan(batch.loss[0]) && std::isnan(batch.gradient[0])), "NaN was lost");
  if (!finite) return 0;
  double sum = 0;
  std::vector<double> gradient(static_cast<size_t>(classes));
  for (int64_t j = 0; j < targets; ++j) {
    const float margin = 1.0f - input[batch.target[j]];
    for (int64_t i = 0; i < classes; ++i) {
      if (classes_of_targets.count(static_cast<int32_t>(i)) != 0) continue;
      sum += std::max(0.0, 1.0 - input[batch.target[j]] + static_cast<double>(input[i]));
      if (margin + input[i] > 0) {
        gradient[i] += 1;
        gradient[batch.target[j]] -= 1;
      }
    }
  }
  const double loss = sum / static_cast<double>(classes);
  const double tolerance = 0x1p-21 * loss + static_cast<double>(targets) * largest * 0x1p-22;
  Require(std::fabs(batch.loss[0] - loss) <= tolerance || (std::isinf(batch.loss[0]) && loss > 3e38), "the loss");
  for (int64_t i = 0; i < classes; ++i) {
    Require(batch.gradient[i] == static_cast<float>(gradient[i] * (1.0 / static_cast<double>(classes))),
            "the gradient");
  }
  return 0;
}

#ifdef REPLAY
int main(int count, char **paths) {
  for (int i = 1; i < count; ++i) {
    std::ifstream file(paths[i], std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t *>(bytes.data()), bytes.size());
  }
  std::printf("%d cases\n", count - 1);
  return 0;
}
#endif
