// How much of a row's time goes into preparing it: reading its labels, sorting their thresholds, making tables.
//
// Built with row.cpp for one instruction set. Arguments: rows, classes, targets of a row. Prints the medians, in
// seconds for all rows on one thread, of preparing them for the loss, of the loss, and the same two for the gradient.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include "../custom_ops/cpu/row.h"

namespace mlml {
namespace MLML_ISA {
extern const RowKernels kFloat32;
}

namespace {

const RowKernels &kernels = MLML_ISA::kFloat32;

void Loss(const Batch &batch, Row *row) {
  PartialSum total = {0, 0};
  for (int64_t piece = 0; piece < NumPieces(batch.classes); ++piece) {
    const PartialSum sum = kernels.sum_tiles(batch, *row, Piece(batch.classes, piece));
    total.sum += sum.sum;
    total.flags |= sum.flags;
  }
  volatile double sum = kernels.finish_sum(batch, *row, {0, NumTiles(batch.classes)}, total);
  (void)sum;
}

void Gradient(const Batch &batch, Row *row, Counts *counts, float *gradient) {
  bool has_nan = false;
  kernels.start_counts(batch, *row, counts);
  for (int64_t piece = 0; piece < NumPieces(batch.classes); ++piece) {
    has_nan = kernels.gradient_of_tiles(batch, *row, Piece(batch.classes, piece), counts, gradient) || has_nan;
  }
  kernels.finish_gradient(batch, *row, {0, NumTiles(batch.classes)}, has_nan,
                          kernels.active_classes(*row, *counts).data(), gradient);
}

// The median of the seconds that work(index) takes for all rows.
template <class Work>
double Median(int64_t rows, Work work) {
  std::vector<double> seconds;
  for (int turn = 0; turn < 101; ++turn) {
    const auto start = std::chrono::steady_clock::now();
    for (int64_t index = 0; index < rows; ++index) work(index);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + 50, seconds.end());
  return seconds[50];
}

void Measure(int64_t rows, int64_t classes, int64_t targets) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> input(rows * classes), gradient(rows * classes);
  for (float &score : input) score = normal(generator);
  std::vector<int32_t> labels(rows * targets), order(classes);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t index = 0; index < rows; ++index) {
    std::shuffle(order.begin(), order.end(), generator);
    std::copy_n(order.begin(), targets, &labels[index * targets]);
  }
  Batch batch = {Dtype::kFloat32, input.data(), labels.data(), true, rows, classes, targets, kOfTarget};
  batch.all_classes = batch.stride = classes;
  Row row;
  Counts counts;
  const double scale = 1.0 / static_cast<double>(rows * classes);
  std::printf("%g %g %g %g\n", Median(rows, [&](int64_t index) { kernels.prepare_loss(batch, index, &row); }),
              Median(rows,
                     [&](int64_t index) {
                       kernels.prepare_loss(batch, index, &row);
                       Loss(batch, &row);
                     }),
              Median(rows, [&](int64_t index) { kernels.prepare_gradient(batch, index, scale, &row); }),
              Median(rows, [&](int64_t index) {
                kernels.prepare_gradient(batch, index, scale, &row);
                Gradient(batch, &row, &counts, gradient.data());
              }));
}

}  // namespace
}  // namespace mlml

int main(int, char **arguments) {
  mlml::Measure(std::atoll(arguments[1]), std::atoll(arguments[2]), std::atoll(arguments[3]));
}
