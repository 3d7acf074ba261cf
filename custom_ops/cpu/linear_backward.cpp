// The backward pass of the linear layer (linear.h).
//
// The gradient of the scores has, up to the row's scale, the number of active targets at each active pair, minus the
// number of active classes at each target, and 0 everywhere else. Where few pairs of a cell are active, both gradients
// are sums over these pairs; where many are, they are matrix products. Up to the scale all numbers are whole, and
// exact in float32.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "linear.h"

namespace mlml {
namespace {

// A class that is a target of a row, and minus the number of classes that its targets are active with.
struct Target {
  int32_t row;
  int32_t index;  // of the class in its block
  float weight;
};

// The targets, block by block, row by row.
class Targets {
 public:
  Targets(const Batch &batch, int64_t blocks, const float *active_classes)
      : has_nan_(batch.labels.rows), ends_(blocks) {
    std::vector<std::pair<int32_t, int64_t>> of_row;  // class and weight
    const auto for_each = [&](auto use) {
      for (int64_t row = 0; row < batch.labels.rows; ++row) {
        of_row.clear();
        const int32_t *labels = batch.labels.data + row * batch.labels.num_labels;
        for (int64_t j = 0; j < batch.labels.num_labels && labels[j] >= 0; ++j) {
          const float active = active_classes[row * batch.labels.num_labels + j];
          // The forward pass has reported a label that is no class.
          if (labels[j] >= batch.labels.num_classes || std::isnan(active)) has_nan_[row] = 1;
          const int64_t i = labels[j] - batch.scores.first_class;
          if (i < 0 || i >= batch.scores.classes) continue;
          const bool is_count = active >= 0 && active <= static_cast<float>(kMostClassesOfLayer);
          of_row.emplace_back(static_cast<int32_t>(i), is_count ? -static_cast<int64_t>(active) : 0);
        }
        std::sort(of_row.begin(), of_row.end());
        for (size_t i = 0; i < of_row.size(); ++i) {
          int64_t weight = of_row[i].second;
          for (; i + 1 < of_row.size() && of_row[i + 1].first == of_row[i].first; ++i) weight += of_row[i + 1].second;
          use(row, of_row[i].first, weight);
        }
      }
    };
    for_each([&](int64_t, int32_t i, int64_t) { ++ends_[i / kTile]; });
    int64_t begin = 0;
    for (int64_t &end : ends_) begin += std::exchange(end, begin);
    targets_.resize(begin);
    for_each([&](int64_t row, int32_t i, int64_t weight) {
      targets_[ends_[i / kTile]++] = {static_cast<int32_t>(row), static_cast<int32_t>(i % kTile),
                                      static_cast<float>(weight)};
    });
  }

  bool HasNan(int64_t row) const { return has_nan_[row] != 0; }
  bool AnyNan() const { return std::find(has_nan_.begin(), has_nan_.end(), 1) != has_nan_.end(); }

  // Calls use(target) for those of a block in the rows [begin, end), row by row.
  template <class Use>
  void ForEach(int64_t block, int64_t begin, int64_t end, Use use) const {
    const Target *first = targets_.data() + (block == 0 ? 0 : ends_[block - 1]), *last = targets_.data() + ends_[block];
    first = std::lower_bound(first, last, begin, [](const Target &target, int64_t row) { return target.row < row; });
    for (; first < last && first->row < end; ++first) use(*first);
  }

 private:
  std::vector<char> has_nan_;
  std::vector<int64_t> ends_;  // of each block
  std::vector<Target> targets_;
};

// Some classes of one block and some rows, of whole cells.
struct Piece {
  int64_t block, first_class, classes, first_row, rows;

  int64_t InBlock() const { return first_class - block * kTile; }  // the first class
};

class LinearBackward {
 public:
  LinearBackward(const Layer &layer, const float *active_classes, const int32_t *saved, const Scale &scale,
                 const LinearGradients &gradients)
      : layer_(layer),
        batch_(layer.batch),
        work_(layer),
        layout_(work_.layout),
        cells_(reinterpret_cast<const Cell *>(saved)),
        data_(reinterpret_cast<const uint8_t *>(saved + 2 * layout_.Cells())),
        targets_(batch_, work_.blocks, active_classes),
        gradients_(gradients),
        kernels_(SelectRowKernels(Dtype::kFloat32)),
        linear_(SelectLinearKernels()),
        threads_(ThreadsOf(layer)),
        scale_(batch_.labels.rows),
        workers_(threads_) {
    for (int64_t row = 0; row < batch_.labels.rows; ++row) scale_[row] = scale(row);
  }

  void Run() {
    const int64_t size = layer_.num_features;
    features_ = features32_.Load(layer_.features, 0, batch_.labels.rows * size);
    if (WantsWeight()) ScaleFeatures();
    if (WantsFeatures()) sums_.assign(work_.ranges * batch_.labels.rows * size, 0);
    const bool is_packed = layout_.SavedAs() == SavedLayout::Mode::kPacked;
    PrepareRows();
    if (!WantsWeight()) {
      RunByParts();
    } else if (is_packed && !WantsFeatures()) {
      RunByClasses();
    } else {
      Parallel(threads_, work_.ranges,
               [&](int worker, int64_t range) { RunRange(worker, range, 0, batch_.labels.rows); });
    }
    if (WantsFeatures()) FinishFeatures();
  }

 private:
  // What a thread works in. A piece is there as terms, or as a matrix of `stride` columns.
  struct Worker {
    BlockScores scores;
    Counts counts;
    std::vector<float> matrix;
    int64_t stride = 0;
    std::vector<Term> terms, by_class;  // (class, weight) by rows, and (row, weight) by classes
    std::vector<int64_t> row_ends;
    std::vector<int32_t> class_ends;
    std::vector<Target> targets;  // of the piece
    Output32 weight;
    std::vector<double> bias;
  };

  bool WantsWeight() const { return gradients_.weight.data != nullptr; }
  bool WantsFeatures() const { return gradients_.features.data != nullptr; }

  void ScaleFeatures() {
    const int64_t size = layer_.num_features;
    scaled_.resize(batch_.labels.rows * size);
    float check = 0;
    for (int64_t row = 0; row < batch_.labels.rows; ++row) {
      for (int64_t d = 0; d < size; ++d) {
        const auto value = static_cast<float>(scale_[row] * features_[row * size + d]);
        scaled_[row * size + d] = value;
        check += value * 0.0f;
      }
    }
    // A sum over active pairs would not see that 0 times infinity is NaN.
    all_dense_ = check != 0 || targets_.AnyNan();
  }

  // For cells that are computed again; also of a packed layout, after an operator that has failed.
  void PrepareRows() {
    bool any = false;
    for (int64_t cell = 0; cell < layout_.Cells(); ++cell) any = any || cells_[cell].offset < 0;
    if (!any) return;
    rows_.resize(batch_.labels.rows);
    Parallel(threads_, batch_.labels.rows, [&](int, int64_t row) {
      if (!targets_.HasNan(row)) kernels_.prepare_gradient(batch_, row, 1, &rows_[row]);
    });
  }

  // All of a range, or some of its rows.
  void RunRange(int worker, int64_t range, int64_t first_row, int64_t last_row) {
    for (int64_t first = work_.RangeBegin(range); first < work_.RangeBegin(range + 1); first += kTile) {
      RunClasses(worker, range, first, std::min(kTile, batch_.scores.classes - first), first_row, last_row);
    }
  }

  void RunByParts() {
    Parallel(threads_, work_.Parts(), [&](int worker, int64_t part) {
      const int64_t begin = part % work_.row_parts * work_.part_rows;
      RunRange(worker, part / work_.row_parts, begin, std::min(begin + work_.part_rows, batch_.labels.rows));
    });
  }

  // The gradient of the weight alone can be divided further.
  void RunByClasses() {
    const int64_t classes = work_.row_parts > 1 ? 2 * kPackedGroup : kTile;
    Parallel(threads_, (batch_.scores.classes + classes - 1) / classes, [&](int worker, int64_t index) {
      const int64_t first = index * classes;
      RunClasses(worker, 0, first, std::min(classes, batch_.scores.classes - first), 0, batch_.labels.rows);
    });
  }

  void RunClasses(int worker, int64_t range, int64_t first_class, int64_t classes, int64_t first_row,
                  int64_t last_row) {
    Worker &own = workers_[worker];
    const int64_t size = layer_.num_features, begin = first_class * size, count = classes * size;
    float *grad_weight = WantsWeight() ? own.weight.Place(gradients_.weight, begin, count) : nullptr;
    if (WantsWeight()) own.bias.assign(classes, 0);
    for (int64_t row = first_row; row < last_row;) {
      const int64_t end = std::min((row / kRowsOfBlock + 1) * kRowsOfBlock, last_row);
      const Piece piece = {first_class / kTile, first_class, classes, row, end - row};
      const bool is_sparse = IsSparse(piece);
      is_sparse ? LoadTerms(piece, &own) : LoadMatrix(piece, &own);
      if (WantsFeatures()) {
        const float *weight = own.scores.LoadWeight(layer_, first_class, classes);
        float *sums = sums_.data() + (range * batch_.labels.rows + row) * size;
        is_sparse ? AddFeatures(piece, own, weight, sums) : MultiplyFeatures(piece, own, weight, sums);
      }
      if (WantsWeight()) {
        is_sparse ? AddWeight(piece, row > 0, &own, grad_weight) : MultiplyWeight(piece, row > 0, &own, grad_weight);
      }
      row = end;
    }
    if (!WantsWeight()) return;
    if (batch_.labels.rows == 0) std::fill_n(grad_weight, count, 0.0f);
    own.weight.Round(gradients_.weight, begin);
    for (int64_t i = 0; i < classes; ++i) gradients_.bias.Set(first_class + i, own.bias[i]);
  }

  // Calls use(cell, first row, end) for the cells of a piece.
  template <class Use>
  void ForEachCell(const Piece &piece, Use use) const {
    const int64_t last = piece.first_row + piece.rows;
    for (int64_t row = piece.first_row; row < last;) {
      const int64_t end = std::min((row / layout_.CellRows() + 1) * layout_.CellRows(), last);
      use(cells_[layout_.CellIndex(piece.block, row)], row, end);
      row = end;
    }
  }

  bool IsSparse(const Piece &piece) const {
    if (all_dense_) return false;
    int64_t active = 0;
    bool is_valid = true;
    ForEachCell(piece, [&](const Cell &cell, int64_t, int64_t) {
      is_valid = is_valid && cell.active >= 0;
      active += cell.active;
    });
    const int64_t classes = std::min(kTile, batch_.scores.classes - piece.block * kTile);
    return is_valid && active <= piece.rows * classes / kSparse;
  }

  // Calls use_numbers(row, numbers) with the numbers of active targets of the piece's classes in a row of a cell, or
  // use_pairs(row, pairs, count) if they were saved as a list.
  template <class Numbers, class Pairs>
  void ForEachRow(const Piece &piece, const Cell &cell, int64_t begin, int64_t end, Worker *own, Numbers use_numbers,
                  Pairs use_pairs) {
    const int64_t width = SavedLayout::Padded(piece.classes);
    uint16_t numbers[kTile];
    if (cell.offset >= 0) {
      ReadList(piece, cell.offset, begin, end, use_pairs);
    } else if (IsPacked(cell)) {
      for (int64_t row = begin; row < end; ++row) {
        const uint8_t *packed = data_ + layout_.PackedOffset(piece.block, row) + piece.InBlock() / 8 * layout_.Bits();
        linear_.unpack(packed, width, layout_.Bits(), numbers);
        std::fill(numbers + piece.classes, numbers + width, uint16_t{0});  // what was saved is not trusted
        use_numbers(row, numbers);
      }
    } else {
      own->scores.Compute(layer_, features_, piece.first_class, piece.classes, begin, end - begin);
      for (int64_t row = begin; row < end; ++row) {
        std::fill(numbers, numbers + width, uint16_t{0});
        if (!targets_.HasNan(row)) {  // otherwise the row is not prepared
          kernels_.start_counts(own->scores.View(), rows_[row], &own->counts);
          kernels_.active_targets(own->scores.View(), rows_[row], own->scores.BlockTiles(), &own->counts, numbers);
        }
        use_numbers(row, numbers);
      }
    }
  }

  bool IsPacked(const Cell &cell) const {
    return cell.offset != Cell::kNotSaved && layout_.SavedAs() == SavedLayout::Mode::kPacked;
  }

  // Nothing in the list is trusted. Pairs of other classes of the block are left out.
  template <class Pairs>
  void ReadList(const Piece &piece, int64_t offset, int64_t begin, int64_t end, Pairs use_pairs) const {
    if (layout_.SavedAs() == SavedLayout::Mode::kNothing) FailSaved();
    const int64_t part = piece.block / work_.range_blocks * work_.row_parts + begin / work_.part_rows;
    const int64_t units = layout_.RoomUnits(piece.block, begin), entry_units = layout_.EntryUnits();
    const auto *room = reinterpret_cast<const uint16_t *>(data_ + layout_.RoomOffset(part, piece.block, begin));
    const int64_t first_row = begin / layout_.CellRows() * layout_.CellRows();
    const int64_t rows = std::min(layout_.CellRows(), batch_.labels.rows - first_row);
    int64_t at = offset + rows;
    if (at > units) FailSaved();
    const auto first = static_cast<int32_t>(piece.InBlock()), classes = static_cast<int32_t>(piece.classes);
    const bool is_whole = classes == kTile;  // no class within a block is too large
    int32_t pairs[kTile];
    for (int64_t row = first_row; row < end; ++row) {
      int64_t count = room[offset + row - first_row];
      if (count > kTile || at + count * entry_units > units) FailSaved();
      if (entry_units == 2) {
        std::memcpy(pairs, room + at, count * sizeof(*pairs));
      } else {
        std::copy_n(room + at, count, pairs);
      }
      at += count * entry_units;
      if (row >= begin) use_pairs(row, pairs, is_whole ? count : linear_.keep(pairs, count, first, classes));
    }
  }

  [[noreturn]] void FailSaved() const {
    layer_.arguments->Fail("'saved' is not what the forward pass of the same arguments has saved.");
  }

  void LoadTerms(const Piece &piece, Worker *own) {
    own->row_ends.assign(piece.rows, 0);
    const int64_t width = SavedLayout::Padded(piece.classes);
    int64_t used = 0;
    const auto room = [&](int64_t more) {
      if (static_cast<int64_t>(own->terms.size()) < used + more) own->terms.resize(2 * (used + more));
      return own->terms.data() + used;
    };
    // Each row's targets come behind its active pairs.
    std::vector<Target> &targets = own->targets;
    targets.clear();
    targets_.ForEach(piece.block, piece.first_row, piece.first_row + piece.rows, [&](const Target &target) {
      const int64_t index = target.index - piece.InBlock();
      if (index >= 0 && index < piece.classes) {
        targets.push_back({target.row, static_cast<int32_t>(index), target.weight});
      }
    });
    size_t target = 0;
    const auto finish_row = [&](int64_t row) {
      for (; target < targets.size() && targets[target].row == row; ++target) {
        *room(1) = {targets[target].index, targets[target].weight};
        ++used;
      }
      own->row_ends[row - piece.first_row] = used;
    };
    const auto add_pairs = [&](int64_t row, const int32_t *pairs, int64_t count) {
      linear_.expand(pairs, count, room(count));
      used += count;
      finish_row(row);
    };
    ForEachCell(piece, [&](const Cell &cell, int64_t begin, int64_t end) {
      ForEachRow(
          piece, cell, begin, end, own,
          [&](int64_t row, const uint16_t *numbers) {
            int32_t pairs[kTile + 16];
            add_pairs(row, pairs, linear_.compact(numbers, width, pairs));
          },
          add_pairs);
    });
  }

  void LoadMatrix(const Piece &piece, Worker *own) {
    const int64_t width = SavedLayout::Padded(piece.classes);
    own->stride = width;
    own->matrix.resize(kRowsOfBlock * kTile);
    const auto at = [&](int64_t row) { return own->matrix.data() + (row - piece.first_row) * width; };
    ForEachCell(piece, [&](const Cell &cell, int64_t begin, int64_t end) {
      if (cell.offset < 0 && !IsPacked(cell)) return ComputeMatrix(piece, begin, end, own);
      ForEachRow(
          piece, cell, begin, end, own,
          [&](int64_t row, const uint16_t *numbers) { linear_.convert(numbers, width, at(row)); },
          [&](int64_t row, const int32_t *pairs, int64_t count) {
            std::fill_n(at(row), width, 0.0f);
            for (int64_t i = 0; i < count; ++i) {
              at(row)[pairs[i] & ((1 << kClassBits) - 1)] = static_cast<float>(pairs[i] >> kClassBits);
            }
          });
    });
    targets_.ForEach(piece.block, piece.first_row, piece.first_row + piece.rows, [&](const Target &target) {
      const int64_t index = target.index - piece.InBlock();
      if (index >= 0 && index < piece.classes) at(target.row)[index] = target.weight;
    });
    for (int64_t row = piece.first_row; row < piece.first_row + piece.rows; ++row) {
      if (targets_.HasNan(row)) std::fill_n(at(row), width, NAN);
    }
  }

  // Fills the rows of a cell that was not saved, from its scores, which are computed again.
  void ComputeMatrix(const Piece &piece, int64_t begin, int64_t end, Worker *own) {
    own->scores.Compute(layer_, features_, piece.first_class, piece.classes, begin, end - begin);
    float *matrix = own->matrix.data() + (begin - piece.first_row) * own->stride;
    for (int64_t row = begin; row < end; ++row) {
      if (targets_.HasNan(row)) continue;  // it is not prepared
      kernels_.start_counts(own->scores.View(), rows_[row], &own->counts);
      kernels_.gradient_of_tiles(own->scores.View(), rows_[row], own->scores.BlockTiles(), &own->counts, matrix);
    }
  }

  void AddFeatures(const Piece &piece, const Worker &own, const float *weight, float *sums) const {
    int64_t begin = 0;
    for (int64_t i = 0; i < piece.rows; ++i) {
      const int64_t end = own.row_ends[i];
      if (end > begin) {
        linear_.sum_terms(own.terms.data() + begin, end - begin, weight, layer_.num_features, true,
                          sums + i * layer_.num_features);
      }
      begin = end;
    }
  }

  void MultiplyFeatures(const Piece &piece, const Worker &own, const float *weight, float *sums) const {
    Multiply({own.matrix.data(), own.stride}, {weight, layer_.num_features}, piece.rows, layer_.num_features,
             piece.classes, true, sums, layer_.num_features);
  }

  // Sorts the terms by class, so that the gradient of each class is written once.
  void AddWeight(const Piece &piece, bool add, Worker *own, float *grad_weight) const {
    const int64_t size = layer_.num_features, count = own->row_ends[piece.rows - 1];
    own->class_ends.resize(piece.classes);
    if (static_cast<int64_t>(own->by_class.size()) < count) own->by_class.resize(count);
    linear_.transpose(own->terms.data(), own->row_ends.data(), piece.rows, piece.first_row, piece.classes,
                      own->class_ends.data(), own->by_class.data());
    int64_t begin = 0;
    for (int64_t c = 0; c < piece.classes; ++c) {
      const int64_t end = own->class_ends[c];
      const Term *terms = own->by_class.data() + begin;
      if (end > begin || !add) linear_.sum_terms(terms, end - begin, scaled_.data(), size, add, grad_weight + c * size);
      if (end > begin) own->bias[c] += linear_.sum_scaled(terms, end - begin, scale_.data());
      begin = end;
    }
  }

  void MultiplyWeight(const Piece &piece, bool add, Worker *own, float *grad_weight) const {
    const int64_t size = layer_.num_features;
    Multiply({own->matrix.data(), own->stride, true}, {scaled_.data() + piece.first_row * size, size}, piece.classes,
             size, piece.rows, add, grad_weight, size);
    for (int64_t i = 0; i < piece.rows; ++i) {
      linear_.add_scaled(own->matrix.data() + i * own->stride, piece.classes, scale_[piece.first_row + i],
                         own->bias.data());
    }
  }

  void FinishFeatures() {
    const int64_t size = layer_.num_features, all = batch_.labels.rows * size;
    Parallel(threads_, batch_.labels.rows, [&](int, int64_t row) {
      std::vector<double> sums(size);
      for (int64_t range = 0; range < work_.ranges; ++range) {
        linear_.add_scaled(sums_.data() + range * all + row * size, size, 1, sums.data());
      }
      const double scale = targets_.HasNan(row) ? NAN : scale_[row];
      for (int64_t i = 0; i < size; ++i) gradients_.features.Set(row * size + i, sums[i] * scale);
    });
  }

  const Layer &layer_;
  const Batch &batch_;
  const LinearWork work_;
  const SavedLayout &layout_;
  const Cell *cells_;
  const uint8_t *data_;
  const Targets targets_;
  const LinearGradients &gradients_;
  const RowKernels &kernels_;
  const LinearKernels &linear_;
  const int threads_;
  std::vector<double> scale_;  // of each row: the gradient of one active pair
  std::vector<Worker> workers_;
  std::vector<Row> rows_;
  Floats32 features32_;
  const float *features_ = nullptr;
  std::vector<float> scaled_;  // the features times the scale of their row
  std::vector<float> sums_;    // of each range, the gradient of the features up to the scale
  bool all_dense_ = false;
};

}  // namespace

void BackwardPass(const Layer &layer, const float *active_classes, const int32_t *saved, const Scale &scale,
                  const LinearGradients &gradients) {
  LinearBackward(layer, active_classes, saved, scale, gradients).Run();
}

}  // namespace mlml
