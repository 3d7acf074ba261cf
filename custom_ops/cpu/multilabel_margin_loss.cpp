// The multi-label margin loss and its gradient on a CPU: who works on which rows. definition.h has the formula.
#include <algorithm>
#include <vector>

#include "../operator.h"
#include "float16.h"
#include "floating_point.h"
#include "parallel.h"
#include "row.h"

// Sets the number of threads; 0 for the default.
MLML_EXPORT void MultilabelMarginLossSetThreads(int threads) { mlml::SetMaxThreads(threads); }
MLML_EXPORT int MultilabelMarginLossThreads() { return mlml::MaxThreads(); }

namespace mlml {
namespace {

// With fewer scores than this, another thread costs more than it saves: waking it takes as long as the work.
constexpr int64_t kScoresPerThread = 1 << 14;

int Threads(const Batch &batch) {
  const int64_t useful = std::max<int64_t>(batch.rows * batch.classes / kScoresPerThread, 1);
  return static_cast<int>(std::min<int64_t>(useful, MaxThreads()));
}

// A few long rows are worked on in pieces by all threads; otherwise each row is one thread's.
bool SharesRows(const Batch &batch, int threads) {
  return threads > 1 && batch.rows < 4 * threads && Pieces(batch.classes) > 1;
}

// The loss of each row.
std::vector<double> RowLosses(const Batch &batch) {
  const RowKernels &kernels = SelectRowKernels(batch.dtype);
  const int threads = Threads(batch);
  const int64_t pieces = Pieces(batch.classes);
  std::vector<double> losses(batch.rows);
  const auto finish = [&](const Row &row, auto sum_of_piece) {
    PartialSum total = {0, 0};
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const PartialSum sum = sum_of_piece(piece);
      total.sum += sum.sum;
      total.flags |= sum.flags;
    }
    losses[row.index] = kernels.loss(batch, row, total);
  };
  if (SharesRows(batch, threads)) {
    std::vector<Row> rows(batch.rows);
    std::vector<PartialSum> sums(batch.rows * pieces);
    Parallel(threads, batch.rows, [&](int, int64_t index) { kernels.prepare_loss(batch, index, &rows[index]); });
    Parallel(threads, batch.rows * pieces,
             [&](int, int64_t i) { sums[i] = kernels.sum_piece(batch, rows[i / pieces], i % pieces); });
    for (const Row &row : rows) finish(row, [&](int64_t piece) { return sums[row.index * pieces + piece]; });
  } else {
    std::vector<Row> workspaces(threads);
    Parallel(threads, batch.rows, [&](int worker, int64_t index) {
      Row &row = workspaces[worker];
      kernels.prepare_loss(batch, index, &row);
      finish(row, [&](int64_t piece) { return kernels.sum_piece(batch, row, piece); });
    });
  }
  return losses;
}

// Writes the gradient; scale_of(row) is the weight of an active pair.
template <class Scale>
void Gradient(const Batch &batch, Scale scale_of, void *gradient) {
  const RowKernels &kernels = SelectRowKernels(batch.dtype);
  const int threads = Threads(batch);
  const int64_t pieces = Pieces(batch.classes);
  std::vector<Counts> counts(threads);
  if (SharesRows(batch, threads)) {
    std::vector<Row> rows(batch.rows);
    Parallel(threads, batch.rows,
             [&](int, int64_t index) { kernels.prepare_gradient(batch, index, scale_of(index), &rows[index]); });
    for (const Row &row : rows) {
      std::vector<char> has_nan(threads, false);
      for (Counts &of_worker : counts) kernels.start_counts(batch, row, &of_worker);
      Parallel(threads, pieces, [&](int worker, int64_t piece) {
        if (kernels.gradient_piece(batch, row, piece, &counts[worker], gradient)) has_nan[worker] = true;
      });
      for (int worker = 1; worker < threads; ++worker) {
        has_nan[0] = has_nan[0] || has_nan[worker];
        for (size_t i = 0; i < counts[0].counts.size(); ++i) counts[0].counts[i] += counts[worker].counts[i];
      }
      kernels.finish_gradient(batch, row, has_nan[0], counts[0], gradient);
    }
  } else {
    std::vector<Row> workspaces(threads);
    Parallel(threads, batch.rows, [&](int worker, int64_t index) {
      Row &row = workspaces[worker];
      kernels.prepare_gradient(batch, index, scale_of(index), &row);
      kernels.start_counts(batch, row, &counts[worker]);
      bool has_nan = false;
      for (int64_t piece = 0; piece < pieces; ++piece) {
        if (kernels.gradient_piece(batch, row, piece, &counts[worker], gradient)) has_nan = true;
      }
      kernels.finish_gradient(batch, row, has_nan, counts[worker], gradient);
    });
  }
}

template <class T>
void Reduce(const std::vector<double> &losses, Reduction reduction, T *loss) {
  double sum = 0;
  for (size_t row = 0; row < losses.size(); ++row) {
    if (reduction == Reduction::kNone) loss[row] = FromDouble<T>(losses[row]);
    sum += losses[row];
  }
  if (reduction != Reduction::kNone) {
    loss[0] = FromDouble<T>(sum / Divisor(reduction, static_cast<int64_t>(losses.size())));
  }
}

template <class T>
void GradientOf(const Batch &batch, Reduction reduction, const T *dout, void *gradient) {
  const double divisor = GradientDivisor(reduction, batch.rows, batch.classes);
  const auto scale_of = [=](int64_t row) { return ToFloat(dout[reduction == Reduction::kNone ? row : 0]) / divisor; };
  Gradient(batch, scale_of, gradient);
}

}  // namespace

int Forward(const Arguments &arguments, const Names &names, Reduction reduction, void *) {
  arguments.Expect(3);
  const Batch batch = ReadBatch(arguments, names);
  void *loss = arguments.Read(2, "loss", reduction == Reduction::kNone ? batch.rows : 1);
  InStandardFloatingPoint([&] {
    const std::vector<double> losses = RowLosses(batch);
    if (batch.dtype == Dtype::kFloat16) {
      Reduce(losses, reduction, static_cast<Float16 *>(loss));
    } else {
      Reduce(losses, reduction, static_cast<float *>(loss));
    }
  });
  return 0;
}

int Backward(const Arguments &arguments, const Names &names, Reduction reduction, void *) {
  arguments.Expect(4);
  const Batch batch = ReadBatch(arguments, names);
  const void *dout = arguments.Read(2, "dout", reduction == Reduction::kNone ? batch.rows : 1);
  void *gradient = arguments.Read(3, "gradient", batch.rows * batch.classes);
  InStandardFloatingPoint([&] {
    if (batch.dtype == Dtype::kFloat16) {
      GradientOf(batch, reduction, static_cast<const Float16 *>(dout), gradient);
    } else {
      GradientOf(batch, reduction, static_cast<const float *>(dout), gradient);
    }
  });
  return 0;
}

}  // namespace mlml

MLML_OPERATOR
