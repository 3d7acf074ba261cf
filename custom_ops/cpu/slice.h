// A slice of the classes on a CPU: the data that the ranks exchange (ranks.h), read and written.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "../ranks.h"
#include "schedule.h"

namespace mlml {

inline Place ReadPlace(const Arguments &arguments, int index, const Batch &batch) {
  return CheckPlace(arguments, index, ReadPlaceValues(arguments, index), batch);
}

// For the operators after the one that reports each mistake.
template <class Run>
void AfterReport(const Arguments &arguments, int outputs, Run run) {
  arguments.RunAfterReport(outputs, run);
}

// A hash of what must be the same on all ranks: FNV-1a, by bytes.
class Checksum {
 public:
  void Add(const void *data, int64_t bytes) {
    const auto *of_data = static_cast<const unsigned char *>(data);
    for (int64_t i = 0; i < bytes; ++i) hash_ = (hash_ ^ of_data[i]) * 0x100000001b3u;
  }
  void Add(int64_t value) { Add(&value, sizeof(value)); }
  uint64_t Value() const { return hash_; }

 private:
  uint64_t hash_ = 0xcbf29ce484222325u;
};

inline void ReadHeader(const Arguments &arguments, int index, const Place &place, Batch *batch) {
  const void *header = arguments.Read(index, "header", "float32", HeaderSize(place.ranks));
  CheckHeader(arguments, static_cast<const float *>(header), place, batch);
}

inline void ReadTargetScores(const Arguments &arguments, int index, Labels *labels) {
  labels->scores =
      static_cast<const float *>(arguments.Read(index, "target scores", "float32", labels->rows * labels->num_labels));
}

// Calls use(j, class of the slice) for each target of the row that is in the slice. Throws if one is no class at all.
template <class Use>
void ForEachTarget(const Batch &batch, int64_t row, Use use) {
  const int32_t *labels = batch.labels.data + row * batch.labels.num_labels;
  for (int64_t j = 0; j < batch.labels.num_labels && labels[j] >= 0; ++j) {
    if (labels[j] >= batch.labels.num_classes) FailTarget(batch.labels, row, j, labels[j]);
    const int64_t i = labels[j] - batch.scores.first_class;
    if (i >= 0 && i < batch.scores.classes) use(j, i);
  }
}

// The parameter "partial".
template <class Float>  // float or const float
struct Partial {
  PartialLayout layout;
  Float *parts;   // of each rank and row, in two numbers
  Float *counts;  // rows x num_labels

  Partial(const Arguments &arguments, int index, const Place &place, const Labels &labels)
      : layout{place.ranks, labels.rows, labels.num_labels},
        parts(static_cast<Float *>(arguments.Read(index, "partial", "float32", layout.Size()))),
        counts(parts + layout.Counts(0)) {}

  Float *Part(int64_t rank, int64_t row) const { return parts + layout.Part(rank, row); }

  // Each target's number of active classes. False if the row has a NaN.
  bool ReadCounts(int64_t row, std::vector<int64_t> *active) const {
    const float *of_row = parts + layout.Counts(row);
    active->assign(layout.num_labels, 0);
    for (int64_t j = 0; j < layout.num_labels; ++j) {
      if (std::isnan(of_row[j])) return false;
      (*active)[j] = ReadCount(of_row[j]);
    }
    return true;
  }
};

// This rank's part of each row's loss.
inline void WriteParts(const Place &place, const Labels &labels, const std::vector<double> &row_sums,
                       const Partial<float> &partial) {
  std::fill_n(partial.parts, partial.layout.Counts(0), 0.0f);
  for (int64_t row = 0; row < labels.rows; ++row) {
    WritePart(row_sums[row] / static_cast<double>(labels.num_classes), partial.Part(place.rank, row));
  }
}

// Each row's loss.
inline std::vector<double> RowLosses(const Partial<const float> &partial) {
  std::vector<double> losses(partial.layout.rows);
  for (int64_t rank = 0; rank < partial.layout.ranks; ++rank) {
    for (int64_t row = 0; row < partial.layout.rows; ++row) losses[row] += ReadPart(partial.Part(rank, row));
  }
  return losses;
}

}  // namespace mlml

// An operator, and the functions by which MindSpore infers the shape and dtype of its output, or vectors of these for
// several outputs. RUN is a statement about `arguments`, SHAPES an expression of `shapes_of`, and TYPES one of the
// inputs' `types`.
#define MLML_SHARD_STEP(NAME, FUNCTION, PLACE, SHAPE_TYPE, RUN, SHAPES, TYPE_TYPE, TYPES)                              \
  MLML_EXPORT int NAME(int nparam, void **params, int *ndims, int64_t **shapes, const char **dtypes, void *, void *) { \
    const mlml::Arguments arguments(FUNCTION, nparam, params, ndims, shapes, dtypes);                                  \
    RUN;                                                                                                               \
    return 0;                                                                                                          \
  }                                                                                                                    \
  MLML_EXPORT SHAPE_TYPE NAME##InferShape(int *ndims, int64_t **shapes, AotExtra *) {                                  \
    const mlml::StepShapes shapes_of(ndims, shapes, PLACE);                                                            \
    return SHAPES;                                                                                                     \
  }                                                                                                                    \
  MLML_EXPORT TYPE_TYPE NAME##InferType(std::vector<TypeId> types, AotExtra *) {                                       \
    (void)types.data();                                                                                                \
    return TYPES;                                                                                                      \
  }
