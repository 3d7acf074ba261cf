// The loss and the gradient of one row, in parts. Compiled once for each instruction set, into a namespace of its name.
#include "row.h"

// In reading order.
// clang-format off
#include "row_targets.h"   // the targets and their thresholds
#include "row_sort.h"      // the thresholds, sorted
#include "row_tile.h"      // the scores, a tile of classes at a time
#include "row_lines.h"     // sums of hinges as lines
#include "row_direct.h"    // hinges and ranks of a group of scores, for few thresholds,
#include "row_segments.h"  // for some,
#include "row_buckets.h"   // and for many
#include "row_method.h"    // which of these
#include "row_loss.h"      // the sum of the hinges
#include "row_gradient.h"  // the numbers of active pairs
#include "linear_rows.h"   // what the linear layer does beside that
// clang-format on

namespace mlml {
namespace MLML_ISA {
namespace {

template <class T>
constexpr RowKernels kKernels = {
    LoadAll<T>,  StoreAll<T>,        PrepareLoss<T>,          SumTiles<T>,   FinishSum<T>,     PrepareGradient<T>,
    StartCounts, GradientOfTiles<T>, ActiveTargetsOfTiles<T>, ActiveClasses, FinishGradient<T>};

}  // namespace

extern const RowKernels kFloat16 = kKernels<Float16>;
extern const RowKernels kFloat32 = kKernels<float>;
extern const LinearKernels kLinear = {Pack,    Unpack,   CountActive, Compact,   Keep, Expand,
                                      Convert, SumTerms, Transpose,   SumScaled, Dot,  AddScaled};

}  // namespace MLML_ISA
}  // namespace mlml
