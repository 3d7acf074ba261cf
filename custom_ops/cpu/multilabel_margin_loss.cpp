// The multi-label margin loss and its gradient on a CPU: the entry points. definition.h has the formula, schedule.h
// defines which thread works on which rows.
#include <vector>

#include "../operator.h"
#include "floating_point.h"
#include "reduction.h"
#include "schedule.h"

// Sets the number of threads; 0 for the default.
MLML_EXPORT void MultilabelMarginLossSetThreads(int threads) { mlml::SetMaxThreads(threads); }
MLML_EXPORT int MultilabelMarginLossThreads() { return mlml::MaxThreads(); }

namespace mlml {

int Forward(const Arguments &arguments, const Names &names, Reduction reduction, void *) {
  arguments.Expect(3);
  const Batch batch = ReadBatch(arguments, names);
  void *loss = arguments.Read(2, "loss", LossSize(batch.labels, reduction));
  InStandardFloatingPoint([&] {
    std::vector<double> losses = RowSums(batch);
    for (double &of_row : losses) of_row /= static_cast<double>(batch.scores.classes);
    Reduce(losses, batch.scores.dtype, reduction, loss);
  });
  return 0;
}

int Backward(const Arguments &arguments, const Names &names, Reduction reduction, void *) {
  arguments.Expect(4);
  const Batch batch = ReadBatch(arguments, names);
  const Scale scale(batch.labels, batch.scores.dtype, reduction,
                    arguments.Read(2, "dout", LossSize(batch.labels, reduction)));
  void *gradient = arguments.Read(3, "gradient", batch.labels.rows * batch.scores.classes);
  InStandardFloatingPoint([&] {
    const RowKernels &kernels = SelectRowKernels(batch.scores.dtype);
    Gradient(batch, scale, gradient, [&](const Row &row, bool has_nan, const Counts &counts) {
      const Tiles all = {0, NumTiles(batch.scores.classes)};
      kernels.finish_gradient(batch, row, all, has_nan, kernels.active_classes(row, counts).data(), gradient);
    });
  });
  return 0;
}

int BackwardAfterReport(const Arguments &arguments, const Names &names, Reduction reduction, void *stream) {
  arguments.RunAfterReport(3, [&] { Backward(arguments, names, reduction, stream); });
  return 0;
}

}  // namespace mlml

MLML_OPERATOR
