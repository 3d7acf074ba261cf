// Calls the kernels in a floating-point mode of the caller's, helper threads included, and in the default mode with one
// thread: the same bits must come out, and the mode must be as it was. usage: floating_point MODE
#include <dlfcn.h>
#include <pthread.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "../../custom_ops/cpu/simd.h"
#include "kernels.h"
#include "mode.h"

namespace {

const Mode default_mode = GetMode();
Mode callers_mode = default_mode;

struct Start {
  void *(*function)(void *);
  void *argument;
};

void *StartInMode(void *argument) {
  const Start start = *static_cast<Start *>(argument);
  delete static_cast<Start *>(argument);
  SetMode(callers_mode);
  return start.function(start.argument);
}

}  // namespace

// Every thread starts in the caller's mode.
extern "C" int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *),
                              void *argument) {
  using Create = int(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  static auto *const create = reinterpret_cast<Create *>(dlsym(RTLD_NEXT, "pthread_create"));
  return create(thread, attributes, StartInMode, new Start{function, argument});
}

namespace {

long calls = 0, wrong = 0;

void Require(bool condition, const std::string &what) {
  if (condition) return;
  ++wrong;
  std::printf("wrong: %s\n", what.c_str());
}

// Calls a kernel in the mode, and looks whether the mode is still the same. True if the kernel threw.
bool CallIn(Mode mode, Kernel *kernel, int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes) {
  bool threw = false;
  SetMode(mode);
  mode = GetMode();  // not every processor has traps
  try {
    kernel(nparam, params, ndims, shapes, dtypes, nullptr, nullptr);
  } catch (const std::exception &) {
    threw = true;
  }
  const Mode left = GetMode();
  SetMode(default_mode);
  ++calls;
  Require(Control(left) == Control(mode), "the mode after the call");
  return threw;
}

template <class T>
T Store(float value) {
  return mlml::FromDouble<T>(value);
}

struct Kernels {
  const char *name;
  bool none;
  Kernel *forward, *backward;
};

const Kernels kReductions[] = {
    {"none", true, MultilabelMarginLossFromLabelsNone, MultilabelMarginLossFromLabelsGradNone},
    {"mean", false, MultilabelMarginLossFromLabelsMean, MultilabelMarginLossFromLabelsGradMean},
    {"sum", false, MultilabelMarginLossFromLabelsSum, MultilabelMarginLossFromLabelsGradSum},
};

// The loss and the gradient of a batch in a mode, bit by bit.
template <class T>
std::vector<T> Results(Mode mode, const Kernels &kernels, Batch &batch, std::vector<T> &input, std::vector<T> &dout,
                       bool *threw) {
  const int64_t count = kernels.none ? batch.rows : 1;
  std::vector<T> loss(count), gradient(input.size());
  int64_t input_shape[] = {batch.rows, batch.classes}, target_shape[] = {batch.rows, batch.labels};
  int64_t loss_shape[] = {count};
  const char *dtype = sizeof(T) == 2 ? "float16" : "float32";
  {
    void *params[] = {input.data(), batch.target.data(), loss.data()};
    int64_t *shapes[] = {input_shape, target_shape, loss_shape};
    int ndims[] = {2, 2, 1};
    const char *dtypes[] = {dtype, "int32", dtype};
    *threw = CallIn(mode, kernels.forward, 3, params, ndims, shapes, dtypes);
  }
  void *params[] = {input.data(), batch.target.data(), dout.data(), gradient.data()};
  int64_t *shapes[] = {input_shape, target_shape, loss_shape, input_shape};
  int ndims[] = {2, 2, 1, 2};
  const char *dtypes[] = {dtype, "int32", dtype, dtype};
  *threw &= CallIn(mode, kernels.backward, 4, params, ndims, shapes, dtypes);
  loss.insert(loss.end(), gradient.begin(), gradient.end());
  return loss;
}

template <class T>
void Compare(const int64_t (&shape)[3], int kind) {
  Batch batch(shape[0], shape[1], shape[2], 1);
  const float least = sizeof(T) == 2 ? 0x1p-14f : 0x1p-126f;  // number that is not denormal
  for (size_t i = 0; i < batch.input.size(); ++i) {
    if (kind == 1) batch.input[i] *= least;              // denormal scores,
    if (kind == 2 && i % 2 == 0) batch.input[i] = 1.0f;  // thresholds at 0 among them,
    if (kind == 2 && i % 2 == 1) batch.input[i] *= least;
    if (kind == 3) batch.input[i] = 1.0f + std::ldexp(1.0f, -23) * static_cast<float>(i % 5);  // next to it
  }
  std::vector<T> input, dout;
  for (float score : batch.input) input.push_back(Store<T>(score));
  // The second makes every gradient denormal.
  for (const float weight : {1.25f, 1.5f * least}) {
    dout.assign(batch.rows, Store<T>(weight));
    for (const Kernels &kernels : kReductions) {
      const std::string name = std::string(kernels.name) + (sizeof(T) == 2 ? ", float16, " : ", float32, ") +
                               std::to_string(shape[0]) + " x " + std::to_string(shape[1]) + " x " +
                               std::to_string(shape[2]) + ", kind " + std::to_string(kind);
      bool threw = false;
      MultilabelMarginLossSetThreads(4);
      const std::vector<T> actual = Results(callers_mode, kernels, batch, input, dout, &threw);
      Require(!threw, name + ": an error");
      MultilabelMarginLossSetThreads(1);
      const std::vector<T> expected = Results(default_mode, kernels, batch, input, dout, &threw);
      Require(std::memcmp(actual.data(), expected.data(), actual.size() * sizeof(T)) == 0, name);
    }
  }
}

// A target that is no class, met by the caller or by a helper.
void CompareErrors() {
  for (const int64_t rows : {1, 300}) {
    Batch batch(rows, 1000, 5, 1);
    batch.target.back() = 1000;
    std::vector<float> dout(rows, 1.0f);
    MultilabelMarginLossSetThreads(4);
    for (const Kernels &kernels : kReductions) {
      bool threw = false;
      Results(callers_mode, kernels, batch, batch.input, dout, &threw);
      Require(threw, "no error");
    }
  }
}

// Each float16 there is, one by one and as vectors, where the mode is not made a standard one.
void CompareConversions() {
  using mlml::MLML_ISA::kLanes;
  constexpr int kAll = 1 << 16;
  std::vector<mlml::Float16> halves(kAll);
  std::vector<float> one_by_one(kAll), in_vectors(kAll);
  for (int i = 0; i < kAll; ++i) halves[i].bits = static_cast<uint16_t>(i);
  const auto convert = [](const mlml::Float16 *from, float *scalar, float *vector) {
    for (int i = 0; i < kAll; ++i) scalar[i] = mlml::ToFloat(from[i]);
    for (int i = 0; i < kAll; i += kLanes) mlml::MLML_ISA::Store(vector + i, mlml::MLML_ISA::Load(from + i));
  };
  void (*volatile called)(const mlml::Float16 *, float *, float *) = convert;
  SetMode(callers_mode);
  called(halves.data(), one_by_one.data(), in_vectors.data());
  SetMode(default_mode);
  for (int i = 0; i < kAll; ++i) {
    const int exponent = i >> 10 & 31, fraction = i & 1023;
    float value = std::ldexp(static_cast<float>(fraction + (exponent == 0 ? 0 : 1024)), std::max(exponent, 1) - 25);
    if (exponent == 31) value = fraction == 0 ? INFINITY : NAN;
    if (i >> 15 != 0) value = -value;
    for (const float converted : {one_by_one[i], in_vectors[i]}) {
      Require(std::isnan(value) ? std::isnan(converted)
                                : converted == value && std::signbit(converted) == std::signbit(value),
              "the float16 " + std::to_string(i));
    }
  }
}

}  // namespace

int main(int, char **arguments) {
  callers_mode = NamedMode(arguments[1]);
  const int64_t shapes[][3] = {{1, 40, 3}, {64, 993, 5}, {300, 200, 30}, {2, 70000, 40}, {3, 5000, 300}};
  for (const auto &shape : shapes) {
    for (int kind = 0; kind < 4; ++kind) {
      Compare<mlml::Float16>(shape, kind);
      Compare<float>(shape, kind);
    }
  }
  CompareErrors();
  CompareConversions();
  std::printf("%ld calls, %ld wrong\n", calls, wrong);
  return wrong == 0 ? 0 : 1;
}
