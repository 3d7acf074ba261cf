// The inner loops of the linear layer, one set for each instruction set.
#pragma once

#include <cstdint>

namespace mlml {

// A vector's number and its weight in a sum.
struct Term {
  int32_t index;
  float weight;
};

// Numbers of active targets are packed in groups of this many classes.
constexpr int64_t kPackedGroup = 128;

// An active pair of a row, in its block: the class, plus 2^kClassBits times the number of its active targets.
constexpr int kClassBits = 10;

struct LinearKernels {
  // Packs numbers below 2^bits, bits being 1, 2, 4, 8 or 16, into `bits` bits each, and unpacks them. `count` is a
  // multiple of kPackedGroup.
  void (*pack)(const uint16_t *numbers, int64_t count, int bits, uint8_t *packed);
  void (*unpack)(const uint8_t *packed, int64_t count, int bits, uint16_t *numbers);
  // How many numbers are not 0. `count` is a multiple of kPackedGroup, and so it is in what follows.
  int64_t (*count_active)(const uint16_t *numbers, int64_t count);
  // Writes a pair for each number that is not 0, and as many numbers as a vector has lanes behind them. Returns how
  // many pairs there are.
  int64_t (*compact)(const uint16_t *numbers, int64_t count, int32_t *pairs);
  // Keeps the pairs whose class is one of `classes` from `first` on, and counts their classes from there. Returns how
  // many there are.
  int64_t (*keep)(int32_t *pairs, int64_t count, int32_t first, int32_t classes);
  // Writes the terms (class, number) of pairs.
  void (*expand)(const int32_t *pairs, int64_t count, Term *terms);
  // Converts numbers to float.
  void (*convert)(const uint16_t *numbers, int64_t count, float *to);
  // sum = weighted sum of the vectors that the terms name, added to what is there if `add`. Vector i has `size` numbers
  // from vectors + i * size on.
  void (*sum_terms)(const Term *terms, int64_t count, const float *vectors, int64_t size, bool add, float *sum);
  // Sorts the terms (class, weight) of rows, of which row i ends at row_ends[i], by class: writes terms (row, weight),
  // the first row being `first_row`, and where those of each class end.
  void (*transpose)(const Term *terms, const int64_t *row_ends, int64_t rows, int64_t first_row, int64_t classes,
                    int32_t *class_ends, Term *by_class);
  // The sum of weight * values[index], in float64.
  double (*sum_scaled)(const Term *terms, int64_t count, const double *values);
  // The dot product, in float64.
  double (*dot)(const float *a, const float *b, int64_t size);
  // sums += weight * numbers.
  void (*add_scaled)(const float *numbers, int64_t count, double weight, double *sums);
};

const LinearKernels &SelectLinearKernels();

}  // namespace mlml
