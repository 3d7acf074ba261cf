// The loss when the classes are divided into slices, one for each rank of a group of processes.
//
// A row's sum of hinges is the sum of its sums over the slices, each of which can be computed once the scores of all of
// the row's targets are known, wherever these are. So what travels between the ranks does not depend on the number of
// classes. Each of these is the sum of what the ranks say:
//   header         how many classes each rank has, and a checksum of what must be the same on all ranks
//   target scores  of each label, 0 from a rank that does not have the class
//   partial        each rank's part of each row's loss, then, for each label, the number of classes that it is active
//                  with
// All of it is float32, which MindSpore sums on every device. A part of a loss is two numbers, a float32 and what it
// lacks; counts are exact, since there are at most 2^24 classes; a count of NaN says that the row has a NaN.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "../operator.h"
#include "schedule.h"

namespace mlml {

constexpr int64_t kMostClasses = 1 << 24;
constexpr int64_t kMostRows = int64_t{1} << 32;  // so that no size overflows

// The parameter "place": what a rank knows without the others.
struct Place {
  int64_t all_classes, rank, ranks;
  int64_t block;  // how many classes a rank works on at a time, where that can be set
};

constexpr int64_t kPlaceSize = 4;

// Of one rank, the number of all classes may be 0: then they are its own.
inline Place ReadPlace(const Arguments &arguments, int index, const Batch &batch) {
  const auto *values = static_cast<const int64_t *>(arguments.Read(index, "place", "int64", kPlaceSize));
  Place place = {values[0], values[1], values[2], values[3]};
  if (place.all_classes == 0 && place.ranks == 1) place.all_classes = batch.classes;
  if (place.all_classes < 1 || place.all_classes > kMostClasses) {
    arguments.Fail("'num_classes' must be from 1 to " + std::to_string(kMostClasses) + ", but got " +
                   std::to_string(place.all_classes) + ".");
  }
  if (batch.rows > kMostRows) arguments.Fail("there are too many rows: " + std::to_string(batch.rows) + ".");
  constexpr int64_t kMostRanks = 256;  // up to which the checksums are exact
  if (place.ranks < 1 || place.ranks > kMostRanks || place.rank < 0 || place.rank >= place.ranks || place.block < 0) {
    arguments.Fail("there must be from 1 to " + std::to_string(kMostRanks) + " ranks, but got number " +
                   std::to_string(place.rank) + " of " + std::to_string(place.ranks) + ".");
  }
  return place;
}

// The bytes of a hash of what must be the same on all ranks: FNV-1a, by words.
class Checksum {
 public:
  static constexpr int kBytes = 8;

  void Add(const void *data, int64_t bytes) {
    const auto *words = static_cast<const unsigned char *>(data);
    for (int64_t i = 0; i < bytes; ++i) hash_ = (hash_ ^ words[i]) * 0x100000001b3u;
  }
  void Add(int64_t value) { Add(&value, sizeof(value)); }
  int Byte(int index) const { return static_cast<int>(hash_ >> (8 * index) & 0xff); }

 private:
  uint64_t hash_ = 0xcbf29ce484222325u;
};

inline int64_t HeaderSize(const Place &place) { return place.ranks + 2 * Checksum::kBytes; }

// This rank's part of the header. Of each byte there is the sum and the sum of squares: all ranks have the same byte
// just if the former's square is `ranks` times the latter.
inline void WriteHeader(const Place &place, int64_t classes, const Checksum &checksum, float *header) {
  std::fill_n(header, HeaderSize(place), 0.0f);
  header[place.rank] = static_cast<float>(classes);
  for (int i = 0; i < Checksum::kBytes; ++i) {
    const int byte = checksum.Byte(i);
    header[place.ranks + 2 * i] = static_cast<float>(byte);
    header[place.ranks + 2 * i + 1] = static_cast<float>(byte * byte);
  }
}

// Sets what the batch of a slice has beyond that of a whole. Every rank throws if the ranks do not agree.
inline void ReadHeader(const Arguments &arguments, int index, const Place &place, Batch *batch) {
  const auto *header = static_cast<const float *>(arguments.Read(index, "header", "float32", HeaderSize(place)));
  int64_t total = 0;
  std::string classes;
  for (int64_t rank = 0; rank < place.ranks; ++rank) {
    const bool is_own = rank == place.rank;
    if (is_own) batch->first_class = total;
    constexpr float kMost = 1e12f;  // so that all together fit an integer
    const bool is_number = header[rank] >= 1 && header[rank] <= kMost;
    if (!is_number || (is_own && header[rank] != static_cast<float>(batch->classes))) {
      arguments.Fail("'header' must have the number of classes of each rank, but has " + std::to_string(header[rank]) +
                     " of rank " + std::to_string(rank) + ".");
    }
    const auto of_rank = static_cast<int64_t>(header[rank]);
    total += of_rank;
    classes += (rank == 0 ? "" : " + ") + std::to_string(of_rank);
  }
  if (total != place.all_classes) {
    arguments.Fail("the ranks must have 'num_classes' = " + std::to_string(place.all_classes) +
                   " classes together, but have " + classes + ".");
  }
  for (int i = 0; i < Checksum::kBytes; ++i) {
    const double sum = header[place.ranks + 2 * i], squares = header[place.ranks + 2 * i + 1];
    if (sum * sum != squares * static_cast<double>(place.ranks)) {
      arguments.Fail("'" + std::string(batch->names.target) +
                     "', and what else all ranks share, must be the same on all ranks, but they differ.");
    }
  }
  batch->all_classes = place.all_classes;
}

inline void ReadTargetScores(const Arguments &arguments, int index, Batch *batch) {
  batch->target_scores =
      static_cast<const float *>(arguments.Read(index, "target scores", "float32", batch->rows * batch->num_labels));
}

// Calls use(j, class of the slice) for each target of the row that is in the slice. Throws if one is no class at all.
template <class Use>
void ForEachTarget(const Batch &batch, int64_t row, Use use) {
  const int32_t *labels = batch.target + row * batch.num_labels;
  for (int64_t j = 0; j < batch.num_labels && labels[j] >= 0; ++j) {
    if (labels[j] >= batch.all_classes) FailTarget(batch, row, j, labels[j]);
    const int64_t i = labels[j] - batch.first_class;
    if (i >= 0 && i < batch.classes) use(j, i);
  }
}

// The parameter "partial".
template <class Float>  // float or const float
struct Partial {
  Float *parts;   // of each rank and row, in two numbers
  Float *counts;  // rows x num_labels

  Partial(const Arguments &arguments, int index, const Place &place, const Batch &batch) {
    const int64_t sums = place.ranks * batch.rows * 2, size = sums + batch.rows * batch.num_labels;
    parts = static_cast<Float *>(arguments.Read(index, "partial", "float32", size));
    counts = parts + sums;
  }

  Float *Part(const Batch &batch, int64_t rank, int64_t row) const { return parts + (rank * batch.rows + row) * 2; }

  // Each target's number of active classes, whatever stands there. False if the row has a NaN.
  bool ReadCounts(const Batch &batch, int64_t row, std::vector<int64_t> *active) const {
    const float *of_row = counts + row * batch.num_labels;
    active->assign(batch.num_labels, 0);
    for (int64_t j = 0; j < batch.num_labels; ++j) {
      if (std::isnan(of_row[j])) return false;
      (*active)[j] = static_cast<int64_t>(std::clamp(of_row[j], 0.0f, static_cast<float>(kMostClasses)));
    }
    return true;
  }
};

// This rank's part of each row's loss.
inline void WriteParts(const Place &place, const Batch &batch, const std::vector<double> &row_sums,
                       const Partial<float> &partial) {
  std::fill_n(partial.parts, place.ranks * batch.rows * 2, 0.0f);
  for (int64_t row = 0; row < batch.rows; ++row) {
    const double loss = row_sums[row] / static_cast<double>(batch.all_classes);
    float *part = partial.Part(batch, place.rank, row);
    part[0] = static_cast<float>(loss);
    part[1] = std::isfinite(part[0]) ? static_cast<float>(loss - part[0]) : 0;
  }
}

// Each row's loss.
inline std::vector<double> RowLosses(const Place &place, const Batch &batch, const Partial<const float> &partial) {
  std::vector<double> losses(batch.rows);
  for (int64_t rank = 0; rank < place.ranks; ++rank) {
    for (int64_t row = 0; row < batch.rows; ++row) {
      const float *part = partial.Part(batch, rank, row);
      losses[row] += static_cast<double>(part[0]) + part[1];
    }
  }
  return losses;
}

}  // namespace mlml
