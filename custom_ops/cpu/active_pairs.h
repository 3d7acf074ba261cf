// What the forward pass of the linear layer saves for the backward pass: which pairs of a row and a class are active,
// and with how many targets.
//
// Classes are cut into blocks and rows into slabs; a cell is a block of a slab. Where the numbers of all pairs fit the
// budget, they are saved, packed into as few bits as the labels of a row allow. Otherwise the active pairs of a cell
// are saved as a list, as long as there is room; the scores of a cell that found none are computed again.
//
//   cells   one Cell for each block and slab, block by block
//   data    packed numbers: for each block and row, PackedBytes(block) bytes; or one pool for each part of the work:
//   for
//           each cell that found room, the number of pairs in each of its rows, then the pairs, row by row
#pragma once

#include <algorithm>
#include <cstdint>

#include "linear_kernels.h"
#include "row.h"

namespace mlml {

// Bytes. Tests compile with smaller numbers, so that small layers take every path.
#ifndef MLML_MOST_PACKED
#define MLML_MOST_PACKED (int64_t{26} << 20)
#endif
#ifndef MLML_MOST_LISTED
#define MLML_MOST_LISTED (int64_t{20} << 20)
#endif

constexpr int64_t kSlab = 256;  // rows
constexpr int64_t kMostPacked = MLML_MOST_PACKED;
constexpr int64_t kMostListed = MLML_MOST_LISTED;
constexpr int64_t kMostSavedLabels = 65535;

struct Cell {
  int32_t active;  // how many pairs are active; all of them if a score is not finite
  int32_t offset;  // of a list in its pool, in units of 16 bits; or one of these:
  static constexpr int32_t kNotSaved = -1;
};

class SavedLayout {
 public:
  enum class Mode { kNothing, kPacked, kLists };

  SavedLayout(int64_t rows, int64_t classes, int64_t num_labels) : rows_(rows), classes_(classes) {
    blocks_ = NumTiles(classes);
    slabs_ = (rows + kSlab - 1) / kSlab;
    if (num_labels > kMostSavedLabels) return;
    while (num_labels >> bits_ != 0) bits_ *= 2;
    const int64_t last = classes - (blocks_ - 1) * kTile;
    packed_bytes_ = rows * ((blocks_ - 1) * kTile + Padded(last)) / 8 * bits_;
    entry_ = num_labels < 64 ? 1 : 2;
    mode_ = packed_bytes_ <= kMostPacked ? Mode::kPacked : Mode::kLists;
  }

  // Divides the room for lists among the parts of the work, each of which one thread works on at a time.
  void DivideAmong(int64_t parts) {
    parts_ = parts;
    pool_ = std::min(kMostListed / 2, rows_ * classes_ / 16 * entry_) / parts;
  }

  Mode SavedAs() const { return mode_; }
  int64_t Cells() const { return blocks_ * slabs_; }
  int64_t CellIndex(int64_t block, int64_t slab) const { return block * slabs_ + slab; }
  int Bits() const { return bits_; }
  int64_t EntryUnits() const { return entry_; }  // 16-bit units of a pair in a list
  int64_t PoolUnits() const { return pool_; }

  // The size of everything, in units of 32 bits.
  int64_t Size() const { return 2 * Cells() + (DataBytes() + 3) / 4 + 1; }
  int64_t DataBytes() const {
    return mode_ == Mode::kPacked ? packed_bytes_ : mode_ == Mode::kLists ? parts_ * pool_ * 2 : 0;
  }

  // In bytes from the beginning of the data.
  int64_t PackedOffset(int64_t block, int64_t row) const {
    const int64_t width = Padded(std::min(kTile, classes_ - block * kTile));
    return (block * kTile * rows_ + row * width) / 8 * bits_;
  }
  int64_t PoolOffset(int64_t part) const { return part * pool_ * 2; }

  static int64_t Padded(int64_t classes) { return (classes + kPackedGroup - 1) / kPackedGroup * kPackedGroup; }

 private:
  int64_t rows_, classes_, parts_ = 1;
  int64_t blocks_ = 0, slabs_ = 0;
  int bits_ = 1;
  int64_t entry_ = 1;
  int64_t packed_bytes_ = 0, pool_ = 0;
  Mode mode_ = Mode::kNothing;
};

static_assert(kTile == 1 << kClassBits, "the class of a pair within its block fits");

}  // namespace mlml
