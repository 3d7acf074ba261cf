// The loss of a linear layer's scores, which are never there all at once.
//
//   Header        (features, labels, weight, [bias,] place) -> header
// and so on, as in class_parallel.cpp, with features, labels, weight and perhaps bias for input and labels, and
//   GradNone ...  (features, labels, weight, [bias,] place, header, target scores, partial, dout)
//                 -> gradient of features, of weight[, of bias]
// Each rank has a slice of the classes; one rank has all of them.
//
// The scores are computed block by block: of some classes and some rows, so few that they stay in the cache until the
// loss, and in the backward pass the gradients, have been made of them. The backward pass computes them again.
//
// The blocks are worked on in ranges of classes, each by one thread. Their number, and with it the order of all sums,
// does not depend on the number of threads.
#include <cstring>
#include <limits>
#include <mutex>
#include <vector>

#include "../operator.h"
#include "blas.h"
#include "floating_point.h"
#include "reduction.h"
#include "slice.h"

namespace mlml {
namespace {

constexpr Names kNames = {"linear_multilabel_margin_loss", "labels"};

// So many ranges at most, and at least as many as few threads need; fewer where each range's gradient of the features
// is large.
constexpr int64_t kMostRanges = 32, kFewRanges = 4;
constexpr int64_t kFeaturesOfRanges = 1 << 22;
constexpr int64_t kRowsOfBlock = 256;
constexpr int64_t kDefaultBlock = 1024;  // classes

// Numbers of either dtype.
struct Elements {
  Dtype dtype = Dtype::kFloat32;
  void *data = nullptr;

  int64_t Size() const { return dtype == Dtype::kFloat16 ? 2 : 4; }  // of one, in bytes
  void SetToZero(int64_t count) const { std::memset(data, 0, count * Size()); }
};

// One call. What its last input is says how much is known.
struct Call {
  enum Known { kPlace, kHeader, kTargetScores, kPartial, kDout };

  Call(const Arguments &from, bool layer_has_bias, Known last) : arguments(from), has_bias(layer_has_bias) {
    output = Index(last) + 1;
    const int outputs = last == kDout ? (has_bias ? 3 : 2) : 1;
    arguments.Expect(output + outputs);
    batch = ReadBatch(arguments, kNames);
    features = batch.classes;
    const std::vector<int64_t> shape = arguments.Shape(kWeight);
    if (!batch.is_matrix || shape.size() != 2 || shape[1] != features || shape[0] < 1) {
      arguments.Fail("the shapes of 'features' and 'weight' must be (N, D) and (C, D), but got " +
                     arguments.ShapeName(0) + " and " + arguments.ShapeName(kWeight) + ".");
    }
    constexpr int64_t kMostFeatures = std::numeric_limits<int>::max();  // as a BLAS counts
    if (shape[0] > kMostClasses || features > kMostFeatures) {
      arguments.Fail("'weight' is too large: shape " + arguments.ShapeName(kWeight) + ".");
    }
    batch.classes = shape[0];
    weight = Read(kWeight, "weight", batch.classes * features);
    if (has_bias) bias = Read(kWeight + 1, "bias", batch.classes);
    place = ReadPlace(arguments, Index(kPlace), batch);
    batch.all_classes = place.all_classes;
    if (last >= kHeader) ReadHeader(arguments, Index(kHeader), place, &batch);
    if (last >= kTargetScores) ReadTargetScores(arguments, Index(kTargetScores), &batch);
  }

  int Index(Known parameter) const { return kWeight + (has_bias ? 2 : 1) + parameter; }

  Elements Features() const { return {batch.dtype, const_cast<void *>(batch.input)}; }

  static constexpr int kWeight = 2;
  const Arguments &arguments;
  bool has_bias;
  int output;
  Batch batch;       // whose input are the features
  int64_t features;  // of a row
  Elements weight, bias;
  Place place;

  // The gradient of such elements.
  Elements Output(int index, const Elements &of, int64_t size) const {
    return {of.dtype, arguments.Read(index, "gradient", of.dtype == Dtype::kFloat16 ? "float16" : "float32", size)};
  }

 private:
  Elements Read(int index, const char *name, int64_t size) const {
    const Dtype dtype = arguments.ReadDtype(index, name);
    return {dtype, arguments.Read(index, name, arguments.DtypeName(index).c_str(), size)};
  }
};

// Elements as float32: where they are, or a copy.
class Floats32 {
 public:
  const float *Load(const Elements &elements, int64_t begin, int64_t count) {
    if (elements.dtype == Dtype::kFloat32) return static_cast<const float *>(elements.data) + begin;
    copy_.resize(count);
    SelectRowKernels(elements.dtype).load(static_cast<const Float16 *>(elements.data) + begin, count, copy_.data());
    return copy_.data();
  }

 private:
  std::vector<float> copy_;
};

// Elements to be written, as float32: where they are, or in a buffer.
class Output32 {
 public:
  float *Place(const Elements &elements, int64_t begin, int64_t count) {
    if (elements.dtype == Dtype::kFloat32) return static_cast<float *>(elements.data) + begin;
    buffer_.resize(count);
    return buffer_.data();
  }
  void Round(const Elements &elements, int64_t begin) const {
    if (elements.dtype == Dtype::kFloat32) return;
    const auto count = static_cast<int64_t>(buffer_.size());
    SelectRowKernels(elements.dtype).store(buffer_.data(), count, static_cast<Float16 *>(elements.data) + begin);
  }

 private:
  std::vector<float> buffer_;
};

// Writes sums as elements.
void Round(const std::vector<double> &sums, int64_t begin, const Elements &elements) {
  for (size_t i = 0; i < sums.size(); ++i) {
    if (elements.dtype == Dtype::kFloat16) {
      static_cast<Float16 *>(elements.data)[begin + i] = FromDouble<Float16>(sums[i]);
    } else {
      static_cast<float *>(elements.data)[begin + i] = static_cast<float>(sums[i]);
    }
  }
}

// Some classes and rows at a time, and their scores.
struct Block {
  int64_t first_class, classes, first_row, rows;
  const float *weight, *bias;  // of its classes; no bias is null
  Batch batch;                 // whose input are the scores
  Tiles tiles;                 // all of its classes
};

// What a thread works in.
struct Workspace {
  Floats32 weight, bias;
  std::vector<float> scores;
};

class Layer {
 public:
  explicit Layer(const Call &call) : call_(call) {
    const Batch &batch = call.batch;
    if (!HasBlas()) call.arguments.Fail("no BLAS was set.");
    features_ = features32_.Load(call.Features(), 0, batch.rows * call.features);
    const int64_t block = std::min(call.place.block == 0 ? kDefaultBlock : call.place.block, batch.classes);
    block_ = NumTiles(block) * kTile;
    const int64_t blocks = (batch.classes + block_ - 1) / block_;
    const int64_t room = kFeaturesOfRanges / std::max<int64_t>(batch.rows * call.features, 1);
    ranges_ = std::min(blocks, std::clamp(room, kFewRanges, kMostRanges));
    range_ = (blocks + ranges_ - 1) / ranges_ * block_;
    ranges_ = (batch.classes + range_ - 1) / range_;
  }

  int64_t Ranges() const { return ranges_; }
  const float *Features(int64_t row) const { return features_ + row * call_.features; }

  // Calls use(block) for the blocks of a range: those of all rows, then the next classes.
  template <class Use>
  void ForEachBlock(int64_t range, Workspace *workspace, Use use) const {
    const Batch &batch = call_.batch;
    const int64_t end = std::min((range + 1) * range_, batch.classes);
    for (int64_t first_class = range * range_; first_class < end; first_class += block_) {
      Block block = {};
      block.first_class = first_class;
      block.classes = std::min(block_, end - first_class);
      block.tiles = {first_class / kTile, NumTiles(first_class + block.classes)};
      block.weight = workspace->weight.Load(call_.weight, first_class * call_.features, block.classes * call_.features);
      if (call_.has_bias) block.bias = workspace->bias.Load(call_.bias, first_class, block.classes);
      for (int64_t first_row = 0; first_row < batch.rows; first_row += kRowsOfBlock) {
        block.first_row = first_row;
        block.rows = std::min(kRowsOfBlock, batch.rows - first_row);
        ComputeScores(block, workspace);
        block.batch = batch;
        block.batch.dtype = Dtype::kFloat32;
        block.batch.input = workspace->scores.data();
        block.batch.stride = block.classes;
        block.batch.origin = first_row * block.classes + first_class;
        use(block);
      }
    }
  }

 private:
  void ComputeScores(const Block &block, Workspace *workspace) const {
    workspace->scores.resize(block.rows * block.classes);
    float *scores = workspace->scores.data();
    for (int64_t row = 0; call_.has_bias && row < block.rows; ++row) {
      std::copy_n(block.bias, block.classes, scores + row * block.classes);
    }
    Multiply({Features(block.first_row), call_.features}, {block.weight, call_.features, true}, block.rows,
             block.classes, call_.features, call_.has_bias, scores, block.classes);
  }

  const Call &call_;
  Floats32 features32_;
  const float *features_;
  int64_t block_, range_, ranges_;  // classes of a block, and of a range; how many ranges
};

int ThreadsOf(const Call &call) { return UsefulThreads(call.batch.rows * call.batch.classes); }

void Header(const Call &call) {
  const Batch &batch = call.batch;
  Checksum checksum;
  for (int64_t size : {batch.rows, batch.num_labels, call.features, static_cast<int64_t>(batch.dtype)}) {
    checksum.Add(size);
  }
  checksum.Add(batch.target, batch.rows * batch.num_labels * static_cast<int64_t>(sizeof(int32_t)));
  if (call.place.ranks > 1) checksum.Add(batch.input, batch.rows * call.features * call.Features().Size());
  void *header = call.arguments.Read(call.output, "header", "float32", HeaderSize(call.place.ranks));
  WriteHeader(call.place, batch.classes, checksum.Value(), static_cast<float *>(header));
}

void TargetScores(const Call &call) {
  const Batch &batch = call.batch;
  const int64_t size = batch.rows * batch.num_labels;
  auto *scores = static_cast<float *>(call.arguments.Read(call.output, "target scores", "float32", size));
  std::fill_n(scores, size, 0.0f);
  InStandardFloatingPoint([&] {
    Floats32 features_copy, weight_copy, bias_copy;
    for (int64_t row = 0; row < batch.rows; ++row) {
      const float *features = features_copy.Load(call.Features(), row * call.features, call.features);
      ForEachTarget(batch, row, [&](int64_t j, int64_t i) {
        const float *weight = weight_copy.Load(call.weight, i * call.features, call.features);
        double score = call.has_bias ? *bias_copy.Load(call.bias, i, 1) : 0;
        for (int64_t d = 0; d < call.features; ++d) score += static_cast<double>(features[d]) * weight[d];
        scores[row * batch.num_labels + j] = static_cast<float>(score);
      });
    }
  });
}

void WritePartial(const Call &call) {
  const Batch &batch = call.batch;
  const Partial<float> partial(call.arguments, call.output, call.place, batch);
  InStandardFloatingPoint([&] {
    const Layer layer(call);
    const RowKernels &kernels = SelectRowKernels(Dtype::kFloat32);
    const int threads = ThreadsOf(call);
    std::vector<Row> rows(batch.rows), rows_of_gradient(batch.rows);
    Parallel(threads, batch.rows, [&](int, int64_t row) {
      kernels.prepare_loss(batch, row, &rows[row]);
      kernels.prepare_gradient(batch, row, 0, &rows_of_gradient[row]);
    });
    std::vector<double> sums(layer.Ranges() * batch.rows);
    std::vector<int64_t> active(batch.rows * batch.num_labels);
    std::vector<char> has_nan(batch.rows);
    std::mutex mutex;  // of active and has_nan
    std::vector<Workspace> workspaces(threads);
    std::vector<std::vector<Counts>> counts_of_workers(threads);
    Parallel(threads, layer.Ranges(), [&](int worker, int64_t range) {
      const OneBlasThread one;
      std::vector<Counts> &counts = counts_of_workers[worker];
      std::vector<char> found_nan(batch.rows);
      counts.resize(batch.rows);
      for (int64_t row = 0; row < batch.rows; ++row) {
        kernels.start_counts(batch, rows_of_gradient[row], &counts[row]);
      }
      layer.ForEachBlock(range, &workspaces[worker], [&](const Block &block) {
        for (int64_t row = block.first_row; row < block.first_row + block.rows; ++row) {
          const PartialSum sum = kernels.sum_tiles(block.batch, rows[row], block.tiles);
          sums[range * batch.rows + row] += kernels.finish_sum(block.batch, rows[row], block.tiles, sum);
          if (kernels.gradient_of_tiles(block.batch, rows_of_gradient[row], block.tiles, &counts[row], nullptr)) {
            found_nan[row] = 1;
          }
        }
      });
      const std::lock_guard<std::mutex> lock(mutex);
      for (int64_t row = 0; row < batch.rows; ++row) {
        const std::vector<int64_t> of_row = kernels.active_classes(rows_of_gradient[row], counts[row]);
        for (size_t j = 0; j < rows[row].targets.size(); ++j) active[row * batch.num_labels + j] += of_row[j];
        if (found_nan[row] != 0) has_nan[row] = 1;
      }
    });
    for (int64_t range = 1; range < layer.Ranges(); ++range) {
      for (int64_t row = 0; row < batch.rows; ++row) sums[row] += sums[range * batch.rows + row];
    }
    WriteParts(call.place, batch, sums, partial);
    for (int64_t i = 0; i < batch.rows * batch.num_labels; ++i) {
      partial.counts[i] = has_nan[i / batch.num_labels] ? NAN : static_cast<float>(active[i]);
    }
  });
}

void Loss(const Call &call, Reduction reduction) {
  const Partial<const float> partial(call.arguments, call.Index(Call::kPartial), call.place, call.batch);
  void *loss = call.arguments.Read(call.output, "loss", LossSize(call.batch, reduction));
  InStandardFloatingPoint(
      [&] { Reduce(RowLosses(call.place, call.batch, partial), call.batch.dtype, reduction, loss); });
}

void WriteGradient(const Call &call, Reduction reduction) {
  const Batch &batch = call.batch;
  const Arguments &arguments = call.arguments;
  const Partial<const float> partial(arguments, call.Index(Call::kPartial), call.place, batch);
  const int64_t size = LossSize(batch, reduction), features = call.features;
  const Scale scale(batch, reduction, arguments.Read(call.Index(Call::kDout), "dout", size));
  void *of_features = arguments.Read(call.output, "gradient of features", batch.rows * features);
  const Elements of_weight = call.Output(call.output + 1, call.weight, batch.classes * features);
  const Elements of_bias = call.has_bias ? call.Output(call.output + 2, call.bias, batch.classes) : Elements{};
  if (batch.rows == 0) {
    of_weight.SetToZero(batch.classes * features);
    if (call.has_bias) of_bias.SetToZero(batch.classes);
    return;
  }
  InStandardFloatingPoint([&] {
    const Layer layer(call);
    const RowKernels &kernels = SelectRowKernels(Dtype::kFloat32);
    const int threads = ThreadsOf(call);
    std::vector<Row> rows(batch.rows);
    std::vector<std::vector<int64_t>> active(batch.rows);
    std::vector<char> has_nan(batch.rows);
    Parallel(threads, batch.rows, [&](int, int64_t row) {
      kernels.prepare_gradient(batch, row, scale(row), &rows[row]);
      has_nan[row] = !partial.ReadCounts(batch, row, &active[row]);
    });
    std::vector<std::vector<float>> of_features_by_range(layer.Ranges());
    struct Gradients {
      Counts counts;
      std::vector<float> scores;
      Output32 weight;
      std::vector<double> bias;
    };
    std::vector<Gradients> gradients(threads);
    std::vector<Workspace> workspaces(threads);
    Parallel(threads, layer.Ranges(), [&](int worker, int64_t range) {
      const OneBlasThread one;
      Gradients &own = gradients[worker];
      std::vector<float> &of_range = of_features_by_range[range];
      of_range.assign(batch.rows * features, 0);
      layer.ForEachBlock(range, &workspaces[worker], [&](const Block &block) {
        own.scores.resize(block.rows * block.classes);
        for (int64_t row = block.first_row; row < block.first_row + block.rows; ++row) {
          kernels.start_counts(block.batch, rows[row], &own.counts);
          kernels.gradient_of_tiles(block.batch, rows[row], block.tiles, &own.counts, own.scores.data());
          kernels.finish_gradient(block.batch, rows[row], block.tiles, has_nan[row] != 0, active[row].data(),
                                  own.scores.data());
        }
        const bool add = block.first_row > 0, last = block.first_row + block.rows == batch.rows;
        Multiply({own.scores.data(), block.classes}, {block.weight, features}, block.rows, features, block.classes,
                 true, of_range.data() + block.first_row * features, features);
        const int64_t begin = block.first_class * features, count = block.classes * features;
        float *weight = own.weight.Place(of_weight, begin, count);
        Multiply({own.scores.data(), block.classes, true}, {layer.Features(block.first_row), features}, block.classes,
                 features, block.rows, add, weight, features);
        if (last) own.weight.Round(of_weight, begin);
        if (!call.has_bias) return;
        if (!add) own.bias.assign(block.classes, 0);
        for (int64_t row = 0; row < block.rows; ++row) {
          kernels.add(own.scores.data() + row * block.classes, block.classes, own.bias.data());
        }
        if (last) Round(own.bias, block.first_class, of_bias);
      });
    });
    std::vector<double> sum(batch.rows * features);
    for (const std::vector<float> &of_range : of_features_by_range) {
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += of_range[i];
    }
    Round(sum, 0, {batch.dtype, of_features});
  });
}

}  // namespace
}  // namespace mlml

#define MLML_STEP(NAME, HAS_BIAS, KNOWN, RUN)                                                                          \
  MLML_EXPORT int NAME(int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes, void *, void *) { \
    const mlml::Arguments arguments(mlml::kNames.function, nparam, params, ndims, shapes, dtypes);                     \
    const mlml::Call call(arguments, HAS_BIAS, mlml::Call::KNOWN);                                                     \
    RUN;                                                                                                               \
    return 0;                                                                                                          \
  }

// Symbols of their own, because MindSpore remembers how many parameters a symbol has.
#define MLML_STEPS(NAME, HAS_BIAS)                                                              \
  MLML_STEP(NAME##Header, HAS_BIAS, kPlace, mlml::Header(call))                                 \
  MLML_STEP(NAME##TargetScores, HAS_BIAS, kHeader, mlml::TargetScores(call))                    \
  MLML_STEP(NAME##Partial, HAS_BIAS, kTargetScores, mlml::WritePartial(call))                   \
  MLML_STEP(NAME##None, HAS_BIAS, kPartial, mlml::Loss(call, mlml::Reduction::kNone))           \
  MLML_STEP(NAME##Mean, HAS_BIAS, kPartial, mlml::Loss(call, mlml::Reduction::kMean))           \
  MLML_STEP(NAME##Sum, HAS_BIAS, kPartial, mlml::Loss(call, mlml::Reduction::kSum))             \
  MLML_STEP(NAME##GradNone, HAS_BIAS, kDout, mlml::WriteGradient(call, mlml::Reduction::kNone)) \
  MLML_STEP(NAME##GradMean, HAS_BIAS, kDout, mlml::WriteGradient(call, mlml::Reduction::kMean)) \
  MLML_STEP(NAME##GradSum, HAS_BIAS, kDout, mlml::WriteGradient(call, mlml::Reduction::kSum))

MLML_STEPS(MultilabelMarginLossLinear, false)
MLML_STEPS(MultilabelMarginLossLinearWithBias, true)
