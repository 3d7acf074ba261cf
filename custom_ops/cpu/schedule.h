// Work partitioning: which thread computes which rows, or pieces of long rows.
#pragma once

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "row.h"

namespace mlml {

// With fewer scores than this, another thread costs more than it saves: waking it takes as long as the work.
constexpr int64_t kScoresPerThread = 1 << 14;

inline int UsefulThreads(int64_t scores) {
  return static_cast<int>(std::min<int64_t>(std::max<int64_t>(scores / kScoresPerThread, 1), MaxThreads()));
}

// A few long rows are worked on in pieces by all threads; otherwise each row is one thread's.
inline bool SharesRows(const Batch &batch, int threads) {
  return threads > 1 && batch.labels.rows < 4 * threads && NumPieces(batch.scores.classes) > 1;
}

// The sum of the hinges of each row.
inline std::vector<double> RowSums(const Batch &batch) {
  const RowKernels &kernels = SelectRowKernels(batch.scores.dtype);
  const int threads = UsefulThreads(batch.labels.rows * batch.scores.classes);
  const int64_t pieces = NumPieces(batch.scores.classes);
  std::vector<double> row_sums(batch.labels.rows);
  const auto finish = [&](const Row &row, auto sum_of_piece) {
    PartialSum total = {0, 0};
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const PartialSum sum = sum_of_piece(piece);
      total.sum += sum.sum;
      total.flags |= sum.flags;
    }
    row_sums[row.index] = kernels.finish_sum(batch, row, {0, NumTiles(batch.scores.classes)}, total);
  };
  const auto sum_piece = [&](const Row &row, int64_t piece) {
    return kernels.sum_tiles(batch, row, Piece(batch.scores.classes, piece));
  };
  if (SharesRows(batch, threads)) {
    std::vector<Row> rows(batch.labels.rows);
    std::vector<PartialSum> sums(batch.labels.rows * pieces);
    Parallel(threads, batch.labels.rows, [&](int, int64_t index) { kernels.prepare_loss(batch, index, &rows[index]); });
    Parallel(threads, batch.labels.rows * pieces,
             [&](int, int64_t i) { sums[i] = sum_piece(rows[i / pieces], i % pieces); });
    for (const Row &row : rows) finish(row, [&](int64_t piece) { return sums[row.index * pieces + piece]; });
  } else {
    std::vector<Row> workspaces(threads);
    Parallel(threads, batch.labels.rows, [&](int worker, int64_t index) {
      Row &row = workspaces[worker];
      kernels.prepare_loss(batch, index, &row);
      finish(row, [&](int64_t piece) { return sum_piece(row, piece); });
    });
  }
  return row_sums;
}

// Writes the gradient of all classes but the targets, unless `gradient` is null, and calls finish(row, has_nan, counts)
// for each row. scale_of(row) is the weight of an active pair.
template <class Scale, class Finish>
void Gradient(const Batch &batch, const Scale &scale_of, void *gradient, Finish finish) {
  const RowKernels &kernels = SelectRowKernels(batch.scores.dtype);
  const int threads = UsefulThreads(batch.labels.rows * batch.scores.classes);
  const int64_t pieces = NumPieces(batch.scores.classes);
  const auto write_piece = [&](const Row &row, int64_t piece, Counts *counts) {
    return kernels.gradient_of_tiles(batch, row, Piece(batch.scores.classes, piece), counts, gradient);
  };
  std::vector<Counts> counts(threads);
  if (SharesRows(batch, threads)) {
    std::vector<Row> rows(batch.labels.rows);
    Parallel(threads, batch.labels.rows,
             [&](int, int64_t index) { kernels.prepare_gradient(batch, index, scale_of(index), &rows[index]); });
    for (const Row &row : rows) {
      std::vector<char> has_nan(threads, false);
      for (Counts &of_worker : counts) kernels.start_counts(batch, row, &of_worker);
      Parallel(threads, pieces, [&](int worker, int64_t piece) {
        if (write_piece(row, piece, &counts[worker])) has_nan[worker] = true;
      });
      for (int worker = 1; worker < threads; ++worker) {
        has_nan[0] = has_nan[0] || has_nan[worker];
        for (size_t i = 0; i < counts[0].counts.size(); ++i) counts[0].counts[i] += counts[worker].counts[i];
      }
      finish(row, has_nan[0] != 0, counts[0]);
    }
  } else {
    std::vector<Row> workspaces(threads);
    Parallel(threads, batch.labels.rows, [&](int worker, int64_t index) {
      Row &row = workspaces[worker];
      kernels.prepare_gradient(batch, index, scale_of(index), &row);
      kernels.start_counts(batch, row, &counts[worker]);
      bool has_nan = false;
      for (int64_t piece = 0; piece < pieces; ++piece) {
        if (write_piece(row, piece, &counts[worker])) has_nan = true;
      }
      finish(row, has_nan, counts[worker]);
    });
  }
}

}  // namespace mlml
