// What the forward pass of the linear layer saves for the backward pass: which pairs of a row and a class are active,
// and with how many targets.
//
// A cell is a block of classes and some rows. Where the numbers of all pairs fit the budget, each cell has room for
// them, packed into as few bits as the labels of a row allow, and holds them, or a list of the active pairs if that is
// smaller. Otherwise the cells of a part of the work share a pool for their lists; the scores of a cell that found no
// room in it are computed again.
//
//   cells   one Cell for each block and CellRows() rows, block by block
//   data    the room for each cell, in the same order, or one pool for each part
// A list holds at most the pairs of a sparse cell. It has the number of pairs in each of its rows, then the pairs,
// row by row, as 16 or 32 bits each.
#pragma once

#include <algorithm>
#include <cstdint>

#include "linear_kernels.h"
#include "row.h"

namespace mlml {

// Bytes. Tests compile with smaller numbers, so that small layers take every path.
#ifndef MLML_MOST_PACKED
#define MLML_MOST_PACKED (int64_t{17} << 20)
#endif
#ifndef MLML_MOST_LISTED
#define MLML_MOST_LISTED (int64_t{14} << 20)
#endif

constexpr int64_t kRowsOfBlock = 256;  // whose scores stay in the cache
constexpr int64_t kFewBlocks = 8;      // with fewer, the threads divide the rows too,
constexpr int64_t kFewRows = 64;       // this many at a time
constexpr int64_t kMostPacked = MLML_MOST_PACKED;
constexpr int64_t kMostListed = MLML_MOST_LISTED;
constexpr int64_t kMostSavedLabels = 65535;

// A cell is sparse if at most one in this many of its pairs is active. Its gradients then take less time as sums over
// these pairs than as matrix products.
constexpr int64_t kSparse = 10;

struct Cell {
  int32_t active;  // how many pairs are active; all of them if a score is not finite
  int32_t offset;  // of a list in its room or pool, in units of 16 bits, or one of these:
  static constexpr int32_t kNotSaved = -1;
  static constexpr int32_t kPacked = -2;
};

class SavedLayout {
 public:
  enum class Mode { kNothing, kPacked, kLists };

  SavedLayout(int64_t rows, int64_t classes, int64_t num_labels) : rows_(rows), classes_(classes) {
    blocks_ = NumTiles(classes);
    cell_rows_ = kRowsOfBlock;
    if (num_labels <= kMostSavedLabels) FindMode(num_labels);
    cells_of_block_ = (rows + cell_rows_ - 1) / cell_rows_;
  }

  // Divides the room for lists among the parts of the work, each of which one thread works on at a time.
  void DivideAmong(int64_t parts) {
    parts_ = parts;
    pool_ = std::min(kMostListed / 2, rows_ * classes_ / 16 * entry_) / parts;
  }

  Mode SavedAs() const { return mode_; }
  int64_t CellRows() const { return cell_rows_; }
  int64_t Cells() const { return blocks_ * cells_of_block_; }
  int64_t CellIndex(int64_t block, int64_t row) const { return block * cells_of_block_ + row / cell_rows_; }
  int Bits() const { return bits_; }
  int64_t EntryUnits() const { return entry_; }  // 16-bit units of a pair in a list

  // The size of everything, in units of 32 bits.
  int64_t Size() const { return 2 * Cells() + (DataBytes() + 3) / 4 + 1; }
  int64_t DataBytes() const {
    return mode_ == Mode::kPacked ? packed_bytes_ : mode_ == Mode::kLists ? parts_ * pool_ * 2 : 0;
  }

  // Where the numbers of a row and block are, if they are packed, in bytes from the beginning of the data.
  int64_t PackedOffset(int64_t block, int64_t row) const {
    const int64_t width = Padded(std::min(kTile, classes_ - block * kTile));
    return (block * kTile * rows_ + row * width) / 8 * bits_;
  }
  // The room for lists: of the cell, or of the part of the work.
  int64_t RoomOffset(int64_t part, int64_t block, int64_t row) const {
    return mode_ == Mode::kPacked ? PackedOffset(block, row / cell_rows_ * cell_rows_) : part * pool_ * 2;
  }
  int64_t RoomUnits(int64_t block, int64_t row) const {
    if (mode_ != Mode::kPacked) return pool_;
    const int64_t begin = row / cell_rows_ * cell_rows_, end = std::min(begin + cell_rows_, rows_);
    return (PackedOffset(block, end) - PackedOffset(block, begin)) / 2;
  }

  static int64_t Padded(int64_t classes) { return (classes + kPackedGroup - 1) / kPackedGroup * kPackedGroup; }

 private:
  void FindMode(int64_t num_labels) {
    while (num_labels >> bits_ != 0) bits_ *= 2;
    const int64_t last = classes_ - (blocks_ - 1) * kTile;
    packed_bytes_ = rows_ * ((blocks_ - 1) * kTile + Padded(last)) / 8 * bits_;
    entry_ = num_labels < 64 ? 1 : 2;
    mode_ = packed_bytes_ <= kMostPacked ? Mode::kPacked : Mode::kLists;
    if (mode_ == Mode::kPacked && blocks_ < kFewBlocks) cell_rows_ = kFewRows;
  }

  int64_t rows_, classes_, parts_ = 1;
  int64_t blocks_ = 0, cell_rows_ = 0, cells_of_block_ = 0;
  int bits_ = 1;
  int64_t entry_ = 1;
  int64_t packed_bytes_ = 0, pool_ = 0;
  Mode mode_ = Mode::kNothing;
};

static_assert(kTile == 1 << kClassBits, "the class of a pair within its block fits");

}  // namespace mlml
