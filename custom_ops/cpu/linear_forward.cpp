// The forward pass of the linear layer (linear.h).
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "linear.h"
#include "slice.h"

namespace mlml {

namespace {

constexpr int64_t kMostRanges = 32, kFewRanges = 4;
constexpr int64_t kFeaturesOfRanges = 1 << 22;  // floats that the ranges' gradients of the features may take

Elements ReadElements(const Arguments &arguments, int index, const char *name, int64_t size) {
  const Dtype dtype = arguments.ReadDtype(index, name);
  return {dtype, arguments.Read(index, name, arguments.DtypeName(index).c_str(), size)};
}

}  // namespace

Layer ReadLayer(const Arguments &arguments, const Names &names) {
  Layer layer;
  layer.arguments = &arguments;
  const Shape features = arguments.Shape(0), labels = arguments.Shape(1), weight = arguments.Shape(2);
  if (features.size() != 2 || weight.size() != 2 || features[1] != weight[1] || features[1] < 1 || weight[0] < 1) {
    arguments.Fail("the shapes of 'features' and 'weight' must be (N, D) and (C, D), but got " +
                   arguments.ShapeName(0) + " and " + arguments.ShapeName(2) + ".");
  }
  if (arguments.Shape(3) != Shape{weight[0]}) {
    arguments.Fail("the shape of 'bias' must be (" + std::to_string(weight[0]) + ",), but got " +
                   arguments.ShapeName(3) + ".");
  }
  if (labels.size() != 2 || labels[0] != features[0] || labels[1] < 1) {
    arguments.Fail("the shape of 'labels' must be (" + std::to_string(features[0]) +
                   ", K) with K of at least 1, as that of 'features' is " + arguments.ShapeName(0) + ", but got " +
                   arguments.ShapeName(1) + ".");
  }
  Batch &batch = layer.batch;
  batch = ReadBatch(arguments, names);
  layer.num_features = batch.scores.classes;
  if (weight[0] > kMostClassesOfLayer || layer.num_features > std::numeric_limits<int32_t>::max() ||
      batch.labels.rows > std::numeric_limits<int32_t>::max()) {
    arguments.Fail("'features' or 'weight' is too large: shapes " + arguments.ShapeName(0) + " and " +
                   arguments.ShapeName(2) + ".");
  }
  batch.scores.classes = batch.labels.num_classes = weight[0];
  layer.features = {batch.scores.dtype, const_cast<void *>(batch.scores.data)};
  batch.scores.dtype = Dtype::kFloat32;
  batch.scores.data = nullptr;
  layer.weight = ReadElements(arguments, 2, "weight", batch.scores.classes * layer.num_features);
  layer.bias = ReadElements(arguments, 3, "bias", batch.scores.classes);
  if (!HasGemm()) arguments.Fail("no matrix product was set.");
  return layer;
}

LinearWork::LinearWork(int64_t rows, int64_t classes, int64_t features, int64_t num_labels)
    : rows(rows), classes(classes), layout(rows, classes, num_labels) {
  blocks = NumTiles(classes);
  const int64_t room = kFeaturesOfRanges / std::max<int64_t>(rows * features, 1);
  ranges = std::min(blocks, std::clamp(room, kFewRanges, kMostRanges));
  range_blocks = (blocks + ranges - 1) / ranges;
  ranges = (blocks + range_blocks - 1) / range_blocks;
  part_rows = blocks < kFewBlocks ? layout.CellRows() : std::max<int64_t>(rows, 1);
  row_parts = std::max<int64_t>((rows + part_rows - 1) / part_rows, 1);
  layout.DivideAmong(Parts());
}

int64_t SavedSize(int64_t rows, int64_t classes, int64_t features, int64_t num_labels) {
  if (rows < 0 || classes < 1 || features < 1 || num_labels < 1) return -1;
  if (classes > kMostClassesOfLayer || rows > std::numeric_limits<int32_t>::max()) return 1;  // the kernel refuses it
  return LinearWork(rows, classes, features, num_labels).layout.Size();
}

int ThreadsOf(const Layer &layer) {
  return UsefulThreads(layer.batch.labels.rows * layer.batch.scores.classes / 8 * (8 + layer.num_features));
}

void ComputeTargetScores(const Layer &layer, float *target_scores) {
  const Batch &batch = layer.batch;
  const LinearKernels &kernels = SelectLinearKernels();
  std::fill_n(target_scores, batch.labels.rows * batch.labels.num_labels, 0.0f);
  const int threads =
      UsefulThreads(batch.labels.rows * std::min(batch.labels.num_labels, batch.scores.classes) * layer.num_features);
  struct Copies {
    Floats32 features, weight, bias;
  };
  std::vector<Copies> copies(threads);
  Parallel(threads, batch.labels.rows, [&](int worker, int64_t row) {
    Copies &own = copies[worker];
    const float *features = nullptr;
    ForEachTarget(batch, row, [&](int64_t j, int64_t i) {
      if (features == nullptr)
        features = own.features.Load(layer.features, row * layer.num_features, layer.num_features);
      const float *weight = own.weight.Load(layer.weight, i * layer.num_features, layer.num_features);
      const double score = *own.bias.Load(layer.bias, i, 1) + kernels.dot(features, weight, layer.num_features);
      target_scores[row * batch.labels.num_labels + j] = static_cast<float>(score);
    });
  });
}

const float *BlockScores::LoadWeight(const Layer &layer, int64_t first_class, int64_t classes) {
  return weight_.Load(layer.weight, first_class * layer.num_features, classes * layer.num_features);
}

void BlockScores::Compute(const Layer &layer, const float *features, int64_t first_class, int64_t classes,
                          int64_t first_row, int64_t rows) {
  const int64_t stride = SavedLayout::Padded(classes);
  if (static_cast<int64_t>(scores_.size()) < rows * stride) scores_.resize(rows * stride);
  const float *weight = LoadWeight(layer, first_class, classes);
  const float *bias = bias_.Load(layer.bias, first_class, classes);
  for (int64_t row = 0; row < rows; ++row) std::copy_n(bias, classes, scores_.data() + row * stride);
  Multiply({features + first_row * layer.num_features, layer.num_features}, {weight, layer.num_features, true}, rows,
           classes, layer.num_features, true, scores_.data(), stride);
  view_ = layer.batch;
  view_.scores.data = scores_.data();
  view_.scores.stride = stride;
  view_.scores.origin = first_row * stride + first_class;
  tiles_ = {first_class / kTile, NumTiles(first_class + classes)};
  first_row_ = first_row;
}

namespace {

// Saves the numbers of active targets of a part of the work, cell by cell.
class Saver {
 public:
  Saver(const SavedLayout &layout, int64_t part, int32_t *saved)
      : layout_(layout),
        is_packed_(layout.SavedAs() == SavedLayout::Mode::kPacked),
        part_(part),
        cells_(reinterpret_cast<Cell *>(saved)),
        data_(reinterpret_cast<uint8_t *>(saved + 2 * layout.Cells())) {}

  void StartCell(int64_t block, int64_t classes, int64_t first_row, int64_t rows) {
    cell_ = &cells_[layout_.CellIndex(block, first_row)];
    room_ = data_ + layout_.RoomOffset(part_, block, first_row);
    const int64_t units = layout_.RoomUnits(block, first_row);
    if (is_packed_) {  // the list is made elsewhere, for the numbers may stay
      units_ = std::min(units, rows + rows * classes / kSparse * layout_.EntryUnits());
      copy_.resize(units_);
      list_ = copy_.data();
    } else {
      list_ = reinterpret_cast<uint16_t *>(room_) + pool_used_;
      units_ = units - pool_used_;
    }
    row_ = active_ = 0;
    used_ = rows;
    fits_ = layout_.SavedAs() != SavedLayout::Mode::kNothing && used_ <= units_;
  }

  // The numbers of a block of one row, padded to `width`.
  void AddRow(int64_t block, int64_t row, const uint16_t *numbers, int64_t width) {
    const LinearKernels &kernels = SelectLinearKernels();
    if (is_packed_) kernels.pack(numbers, width, layout_.Bits(), data_ + layout_.PackedOffset(block, row));
    const int64_t count = kernels.count_active(numbers, width);
    active_ += count;
    fits_ = fits_ && used_ + count * layout_.EntryUnits() <= units_;
    if (!fits_) return;
    int32_t pairs[kTile + 16];
    kernels.compact(numbers, width, pairs);
    list_[row_++] = static_cast<uint16_t>(count);
    if (layout_.EntryUnits() == 2) {
      std::memcpy(list_ + used_, pairs, count * sizeof(*pairs));
    } else {
      for (int64_t i = 0; i < count; ++i) list_[used_ + i] = static_cast<uint16_t>(pairs[i]);
    }
    used_ += count * layout_.EntryUnits();
  }

  void FinishCell(bool is_finite, int64_t pairs) {
    cell_->active = static_cast<int32_t>(is_finite ? active_ : pairs);
    if (!fits_) {
      cell_->offset = is_packed_ ? Cell::kPacked : Cell::kNotSaved;
    } else if (is_packed_) {
      std::memcpy(room_, list_, used_ * sizeof(*list_));
      cell_->offset = 0;
    } else {
      cell_->offset = static_cast<int32_t>(pool_used_);
      pool_used_ += used_;
    }
  }

 private:
  const SavedLayout &layout_;
  const bool is_packed_;
  const int64_t part_;
  Cell *cells_;
  uint8_t *data_;
  int64_t pool_used_ = 0;
  std::vector<uint16_t> copy_;

  Cell *cell_ = nullptr;  // that is being saved, and its list
  uint8_t *room_ = nullptr;
  uint16_t *list_ = nullptr;
  int64_t units_ = 0, used_ = 0, row_ = 0, active_ = 0;
  bool fits_ = false;
};

bool AllFinite(const float *values, int64_t count) {
  float check = 0;
  for (int64_t i = 0; i < count; ++i) check += values[i] * 0.0f;
  return check == 0;
}

}  // namespace

void ForwardPass(const Layer &layer, double *row_sums, float *active_classes, int32_t *saved) {
  const Batch &batch = layer.batch;
  const LinearWork work(layer);
  const SavedLayout &layout = work.layout;
  const RowKernels &kernels = SelectRowKernels(Dtype::kFloat32);
  const bool saves = layout.SavedAs() != SavedLayout::Mode::kNothing;
  const int threads = ThreadsOf(layer);
  auto *cells = reinterpret_cast<Cell *>(saved);
  std::fill_n(cells, layout.Cells(), Cell{0, Cell::kNotSaved});
  Floats32 copy;
  const float *features = copy.Load(layer.features, 0, batch.labels.rows * layer.num_features);
  std::vector<Row> rows(batch.labels.rows), rows_of_gradient(batch.labels.rows);
  Parallel(threads, batch.labels.rows, [&](int, int64_t row) {
    kernels.prepare_loss(batch, row, &rows[row]);
    kernels.prepare_gradient(batch, row, 1, &rows_of_gradient[row]);
  });
  std::vector<double> sums(work.ranges * batch.labels.rows);
  std::vector<int64_t> active(batch.labels.rows * batch.labels.num_labels);
  std::vector<char> has_nan(batch.labels.rows);
  struct Worker {
    BlockScores scores;
    std::vector<Counts> counts;
  };
  std::vector<Worker> workers(threads);
  Parallel(threads, work.Parts(), [&](int worker, int64_t part) {
    Worker &own = workers[worker];
    const int64_t range = part / work.row_parts, part_begin = part % work.row_parts * work.part_rows;
    const int64_t part_end = std::min(part_begin + work.part_rows, batch.labels.rows);
    Saver saver(layout, part, saved);
    own.counts.resize(part_end - part_begin);
    for (int64_t row = part_begin; row < part_end; ++row) {
      kernels.start_counts(batch, rows_of_gradient[row], &own.counts[row - part_begin]);
    }
    for (int64_t first_class = work.RangeBegin(range); first_class < work.RangeBegin(range + 1); first_class += kTile) {
      const int64_t block = first_class / kTile, classes = std::min(kTile, batch.scores.classes - first_class);
      const int64_t width = SavedLayout::Padded(classes);
      for (int64_t begin = part_begin; begin < part_end;) {
        const int64_t end = std::min((begin / layout.CellRows() + 1) * layout.CellRows(), part_end);
        own.scores.Compute(layer, features, first_class, classes, begin, end - begin);
        const Batch &view = own.scores.View();
        const Tiles tiles = own.scores.BlockTiles();
        saver.StartCell(block, classes, begin, end - begin);
        for (int64_t row = begin; row < end; ++row) {
          const PartialSum sum = kernels.sum_tiles(view, rows[row], tiles);
          sums[range * batch.labels.rows + row] += kernels.finish_sum(view, rows[row], tiles, sum);
          Counts *counts = &own.counts[row - part_begin];
          bool found_nan;
          if (saves) {
            uint16_t numbers[kTile];
            found_nan = kernels.active_targets(view, rows_of_gradient[row], tiles, counts, numbers);
            std::fill(numbers + classes, numbers + width, uint16_t{0});
            saver.AddRow(block, row, numbers, width);
          } else {
            found_nan = kernels.gradient_of_tiles(view, rows_of_gradient[row], tiles, counts, nullptr);
          }
          if (found_nan) __atomic_store_n(&has_nan[row], 1, __ATOMIC_RELAXED);
        }
        // The scores of a class with a weight that is not finite are not finite in any row.
        saver.FinishCell(saves && AllFinite(own.scores.OfRow(begin), classes), (end - begin) * classes);
        begin = end;
      }
    }
    for (int64_t row = part_begin; row < part_end; ++row) {
      const std::vector<int64_t> of_row = kernels.active_classes(rows_of_gradient[row], own.counts[row - part_begin]);
      for (size_t j = 0; j < rows[row].targets.size(); ++j) {
        __atomic_fetch_add(&active[row * batch.labels.num_labels + j], of_row[j], __ATOMIC_RELAXED);
      }
    }
  });
  for (int64_t row = 0; row < batch.labels.rows; ++row) {
    row_sums[row] = 0;
    for (int64_t range = 0; range < work.ranges; ++range) row_sums[row] += sums[range * batch.labels.rows + row];
    for (int64_t j = row * batch.labels.num_labels; j < (row + 1) * batch.labels.num_labels; ++j) {
      active_classes[j] = has_nan[row] != 0 ? NAN : static_cast<float>(active[j]);
    }
  }
}

}  // namespace mlml
