// The data that the ranks of a group of processes exchange when the classes are divided into slices, one for each rank.
//
// A row's sum of hinges is the sum of its sums over the slices, each of which can be computed once the scores of all of
// the row's targets are known, wherever these are. So what travels between the ranks does not depend on the number of
// classes. Each of these is a sum over the ranks:
//   header         how many classes each rank has, and a checksum of what must be the same on all ranks
//   target scores  of each label, 0 from a rank that does not have the class
//   partial        each rank's part of each row's loss, then, for each label, the number of classes that it is active
//                  with
// All of it is float32, which MindSpore sums on every device. A part of a loss is two numbers, a float32 and what it
// lacks; counts are exact, since there are at most 2^24 classes; a count is NaN if the row has a NaN.
#pragma once

#include <cstdint>
#include <string>

#include "definition.h"
#include "operator.h"

namespace mlml {

constexpr int64_t kMostClasses = 1 << 24;
constexpr int64_t kMostRows = int64_t{1} << 32;  // so that no size overflows
constexpr int64_t kMostRanks = 256;              // up to which the checksums are exact

// The parameter "place": what is known to a rank without an exchange.
struct Place {
  int64_t all_classes, rank, ranks;
};

// Its numbers, then as many zeros as there are ranks: so that the shape alone gives their number in a graph.
constexpr int64_t kPlaceSize = 3;

// Faults of the exchanged data.
enum class Fault { kNone, kNumClasses, kRanks, kNoNumber, kTotal, kDifference };

// Of one rank, the number of all classes may be 0: then they are its own.
MLML_HOST_DEVICE inline Place PlaceOf(const int64_t *values, int64_t classes) {
  Place place = {values[0], values[1], values[2]};
  if (place.all_classes == 0 && place.ranks == 1) place.all_classes = classes;
  return place;
}

MLML_HOST_DEVICE inline Fault FaultOf(const Place &place) {
  if (place.all_classes < 1 || place.all_classes > kMostClasses) return Fault::kNumClasses;
  if (place.ranks < 1 || place.ranks > kMostRanks || place.rank < 0 || place.rank >= place.ranks) {
    return Fault::kRanks;
  }
  return Fault::kNone;
}

constexpr int kChecksumBytes = 8;

MLML_HOST_DEVICE inline int64_t HeaderSize(int64_t ranks) { return ranks + 2 * kChecksumBytes; }

// This rank's part of the header. Of each byte of the checksum there is the sum and the sum of squares: all ranks have
// the same byte just if the former's square is `ranks` times the latter.
MLML_HOST_DEVICE inline void WriteHeader(const Place &place, int64_t classes, uint64_t checksum, float *header) {
  checksum += static_cast<uint64_t>(place.all_classes) * 0x9e3779b97f4a7c15u;
  for (int64_t rank = 0; rank < place.ranks; ++rank) header[rank] = 0;
  header[place.rank] = static_cast<float>(classes);
  for (int i = 0; i < kChecksumBytes; ++i) {
    const int byte = static_cast<int>(checksum >> (8 * i) & 0xff);
    header[place.ranks + 2 * i] = static_cast<float>(byte);
    header[place.ranks + 2 * i + 1] = static_cast<float>(byte * byte);
  }
}

// What a rank with so many classes finds in the header.
struct Agreement {
  Fault fault;
  int64_t rank;         // with kNoNumber, the one whose number it is
  int64_t first_class;  // of the slice, if there is no fault
};

MLML_HOST_DEVICE inline Agreement ReadHeader(const Place &place, int64_t classes, const float *header) {
  int64_t first_class = 0, total = 0;
  for (int64_t rank = 0; rank < place.ranks; ++rank) {
    const bool is_own = rank == place.rank;
    if (is_own) first_class = total;
    constexpr float kMost = 1e12f;  // so that all together fit an integer
    const bool is_number = header[rank] >= 1 && header[rank] <= kMost;
    if (!is_number || (is_own && header[rank] != static_cast<float>(classes))) return {Fault::kNoNumber, rank, 0};
    total += static_cast<int64_t>(header[rank]);
  }
  if (total != place.all_classes) return {Fault::kTotal, 0, 0};
  for (int i = 0; i < kChecksumBytes; ++i) {
    const double sum = header[place.ranks + 2 * i], squares = header[place.ranks + 2 * i + 1];
    if (sum * sum != squares * static_cast<double>(place.ranks)) return {Fault::kDifference, 0, 0};
  }
  return {Fault::kNone, 0, first_class};
}

// The layout of "partial".
struct PartialLayout {
  int64_t ranks, rows, num_labels;

  MLML_HOST_DEVICE int64_t Part(int64_t rank, int64_t row) const { return (rank * rows + row) * 2; }
  MLML_HOST_DEVICE int64_t Counts(int64_t row) const { return ranks * rows * 2 + row * num_labels; }
  MLML_HOST_DEVICE int64_t Size() const { return Counts(rows); }
};

MLML_HOST_DEVICE inline void WritePart(double loss, float *part) {
  part[0] = static_cast<float>(loss);
  const bool is_finite = part[0] * 0.0f == 0;
  part[1] = is_finite ? static_cast<float>(loss - part[0]) : 0;
}

MLML_HOST_DEVICE inline double ReadPart(const float *part) { return static_cast<double>(part[0]) + part[1]; }

// A number of active classes, from any float but NaN.
MLML_HOST_DEVICE inline int64_t ReadCount(float count) {
  if (!(count > 0)) return 0;
  return count < static_cast<float>(kMostClasses) ? static_cast<int64_t>(count) : kMostClasses;
}

// ---------------------------------------------------------------------------------------------------------------------
// The same on the host, where a fault is an error. Every rank throws if the ranks do not agree.

// The scores and the labels, which must be matrices.
inline Batch ReadMatrices(const Arguments &arguments) {
  const Batch batch = ReadBatch(arguments, kOfClassParallel);
  if (!batch.labels.is_matrix || batch.labels.rows == 0) {
    arguments.Fail("the shapes of 'x' and 'labels' must be (N, c) and (N, K) with N of at least 1, but got " +
                   arguments.ShapeName(0) + " and " + arguments.ShapeName(1) + ".");
  }
  return batch;
}

inline const int64_t *ReadPlaceValues(const Arguments &arguments, int index) {
  const int64_t size = std::max<int64_t>(arguments.Elements(index), kPlaceSize + 1);
  return static_cast<const int64_t *>(arguments.Read(index, "place", "int64", size));
}

// "place" has one element for each rank behind its numbers.
inline void CheckPlaceSize(const Arguments &arguments, int index, int64_t ranks) {
  if (arguments.Elements(index) != kPlaceSize + ranks) {
    arguments.Fail("'place' must have " + std::to_string(kPlaceSize + ranks) + " elements, but got shape " +
                   arguments.ShapeName(index) + ".");
  }
}

inline Place CheckPlace(const Arguments &arguments, int index, const int64_t *values, const Batch &batch) {
  const Place place = PlaceOf(values, batch.scores.classes);
  const Fault fault = FaultOf(place);
  if (fault == Fault::kNumClasses) {
    arguments.FailInput("'num_classes' must be from 1 to " + std::to_string(kMostClasses) + ", but got " +
                        std::to_string(place.all_classes) + ".");
  }
  if (batch.labels.rows > kMostRows)
    arguments.Fail("there are too many rows: " + std::to_string(batch.labels.rows) + ".");
  if (fault == Fault::kRanks) {
    arguments.FailInput("there must be from 1 to " + std::to_string(kMostRanks) + " ranks, but got number " +
                        std::to_string(place.rank) + " of " + std::to_string(place.ranks) + ".");
  }
  CheckPlaceSize(arguments, index, place.ranks);
  return place;
}

// Sets what the batch of a slice has beyond that of a whole.
inline void CheckHeader(const Arguments &arguments, const float *header, const Place &place, Batch *batch) {
  const Agreement agreement = ReadHeader(place, batch->scores.classes, header);
  if (agreement.fault == Fault::kNoNumber) {
    arguments.FailInput("'header' must have the number of classes of each rank, but has " +
                        std::to_string(header[agreement.rank]) + " of rank " + std::to_string(agreement.rank) + ".");
  }
  if (agreement.fault == Fault::kTotal) {
    std::string classes;
    for (int64_t rank = 0; rank < place.ranks; ++rank) {
      classes += (rank == 0 ? "" : " + ") + std::to_string(static_cast<int64_t>(header[rank]));
    }
    arguments.FailInput("the ranks must have 'num_classes' = " + std::to_string(place.all_classes) +
                        " classes together, but have " + classes + ".");
  }
  if (agreement.fault == Fault::kDifference) {
    arguments.FailInput("'" + std::string(batch->labels.names.target) +
                        "', and what else all ranks share, must be the same on all ranks, but they differ.");
  }
  batch->scores.first_class = agreement.first_class;
  batch->labels.num_classes = place.all_classes;
}

// ---------------------------------------------------------------------------------------------------------------------
// The shapes of what the steps write, for MindSpore; -1 where a size is not known.

struct StepShapes : InputShapes {
  StepShapes(const int *ndims, int64_t **shapes, int place_parameter)
      : InputShapes{ndims, shapes}, place(place_parameter) {}
  int place;  // the parameter

  int64_t Rows() const { return Size(0, 0, 2); }
  int64_t NumLabels() const { return Size(1, 1, 2); }
  int64_t Ranks() const { return Size(place, 0, 1) < 0 ? -1 : Size(place, 0, 1) - kPlaceSize; }

  Shape Header() const { return {Ranks() < 0 ? -1 : HeaderSize(Ranks())}; }
  Shape TargetScores() const { return {Rows(), NumLabels()}; }
  Shape Partial() const {
    if (Rows() < 0 || NumLabels() < 0 || Ranks() < 0) return {-1};
    return {PartialLayout{Ranks(), Rows(), NumLabels()}.Size()};
  }
  Shape Loss(Reduction reduction) const { return {reduction == Reduction::kNone ? Rows() : 1}; }
};

}  // namespace mlml
