// Compares the vector operations of custom_ops/cpu/simd.h with plain loops over their lanes, and the sort that is made
// of them with the standard library's, for the instruction set that it is compiled for: see builds.py.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "cpu/row_sort.h"

namespace {

using namespace mlml;
using namespace mlml::MLML_ISA;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kSmallest = std::numeric_limits<float>::denorm_min();

std::mt19937 generator(1);
int64_t checks = 0, mistakes = 0;

void Require(bool right, const char *operation) {
  ++checks;
  if (right) return;
  if (++mistakes <= 20) std::printf("wrong: %s\n", operation);
}

bool SameBits(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

// Where a vector and what its lanes were made of stand side by side.
struct Numbers {
  float values[kLanes];
  Floats Vector() const { return Load(values); }
};

// Small numbers, so that many are equal, and all that is special.
float AnyFloat() {
  constexpr float kSpecial[] = {0.0f, -0.0f,    1.0f,      kInfinity, -kInfinity,
                                kNan, kLargest, -kLargest, kSmallest, -kSmallest};
  const unsigned choice = generator() % 30;
  return choice < 10 ? kSpecial[choice] : static_cast<float>(static_cast<int>(generator() % 17) - 8) / 4;
}

Numbers AnyNumbers() {
  Numbers lanes;
  for (float &value : lanes.values) value = AnyFloat();
  return lanes;
}

void CheckLoadAndStore() {
  float floats[kLanes + 1], stored[kLanes + 2] = {};
  int32_t ints[kLanes + 1], stored_ints[kLanes + 2] = {};
  for (int i = 0; i <= kLanes; ++i) {
    floats[i] = AnyFloat();
    ints[i] = static_cast<int32_t>(generator());
  }
  const Floats vector = Load(floats + 1);  // of any alignment
  const Ints int_vector = Load(ints + 1);
  Store(stored + 1, vector);
  Store(stored_ints + 1, int_vector);
  for (int i = 0; i < kLanes; ++i) {
    Require(SameBits(vector[i], floats[i + 1]) && SameBits(stored[i + 1], floats[i + 1]), "Load, Store of float32");
    Require(int_vector[i] == ints[i + 1] && stored_ints[i + 1] == ints[i + 1], "Load, Store of int32");
    Require(Set(0.1f)[i] == 0.1f, "Set");
  }
  Require(stored[0] == 0 && stored[kLanes + 1] == 0, "Store writes its lanes only");
}

// What a float16 says, from its definition.
double ValueOf(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

void CheckFloat16() {
  for (int first = 0; first < 1 << 16; first += kLanes) {
    Float16 halves[kLanes], stored[kLanes];
    for (int i = 0; i < kLanes; ++i) halves[i].bits = static_cast<uint16_t>(first + i);
    const Floats loaded = Load(halves);
    Store(stored, loaded);
    for (int i = 0; i < kLanes; ++i) {
      const auto expected = static_cast<float>(ValueOf(halves[i].bits));
      Require(std::isnan(expected) ? std::isnan(loaded[i]) : SameBits(loaded[i], expected), "Load of float16");
      Require(std::isnan(expected) ? std::isnan(ValueOf(stored[i].bits)) : stored[i].bits == halves[i].bits,
              "Store of float16 gives back what was loaded");
    }
  }
  // Between two neighbours: the middle goes to the even one, what is beside it to the nearer one.
  for (int low = 0; low < 0x7c00; ++low) {
    const double below = ValueOf(static_cast<uint16_t>(low));
    const double above = low == 0x7bff ? 65536 : ValueOf(static_cast<uint16_t>(low + 1));
    const auto middle = static_cast<float>((below + above) / 2);
    Numbers lanes;
    for (int i = 0; i < kLanes; ++i) {
      const float step = i % 4 == 0 ? 0.0f : i % 4 == 1 ? -kInfinity : kInfinity;
      const float magnitude = step == 0 ? middle : std::nextafter(middle, step);
      lanes.values[i] = i % 4 == 3 ? -magnitude : magnitude;
    }
    Float16 stored[kLanes];
    Store(stored, lanes.Vector());
    for (int i = 0; i < kLanes; ++i) {
      const int magnitude = i % 4 == 0 ? low + (low & 1) : i % 4 == 1 ? low : low + 1;
      Require(stored[i].bits == (magnitude | (i % 4 == 3 ? 0x8000 : 0)), "Store of float16 rounds to nearest");
    }
  }
  Numbers lanes;
  for (int i = 0; i < kLanes; ++i)
    lanes.values[i] = i % 4 == 0 ? kLargest : i % 4 == 1 ? -kInfinity : i % 4 == 2 ? kNan : kSmallest;
  Float16 stored[kLanes];
  Store(stored, lanes.Vector());
  for (int i = 0; i < kLanes; i += 4) {
    Require(stored[i].bits == 0x7c00 && stored[i + 1].bits == 0xfc00, "Store of float16 overflows to infinity");
    Require(std::isnan(ValueOf(stored[i + 2].bits)) && stored[i + 3].bits == 0, "Store of float16: NaN, underflow");
  }
}

void CheckComparisons() {
  const Numbers a = AnyNumbers(), b = AnyNumbers();
  const int add = 1 << generator() % 8;
  int32_t counts[kLanes], others[kLanes];  // others have no bit of what is added
  for (int i = 0; i < kLanes; ++i) {
    counts[i] = static_cast<int32_t>(generator() % 1000);
    others[i] = counts[i] & ~add;
  }
  const Floats max = Max(a.Vector(), b.Vector()), min = Min(a.Vector(), b.Vector()), hinge = Hinge(a.Vector());
  Numbers not_negative = a;
  for (float &value : not_negative.values) value = std::fabs(value);
  const Floats positive = MaxOfPositive(not_negative.Vector(), b.Vector());
  const Ints added = AddIfGreater(Load(others), add, a.Vector(), b.Vector());
  const Ints counted = CountGreater(Load(counts), a.Vector(), b.Vector());
  int32_t numbers[kLanes], compressed[kLanes], count = 0;
  float compressed_values[kLanes];
  for (int i = 0; i < kLanes; ++i) numbers[i] = i;
  const auto not_at_most = NotAtMost(a.Vector(), b.Vector());
  CompressStore(not_at_most, Load(numbers), compressed);
  CompressStore(not_at_most, a.Vector(), compressed_values);
  for (int i = 0; i < kLanes; ++i) {
    const bool is_greater = a.values[i] > b.values[i];
    if (!(a.values[i] <= b.values[i])) {
      Require(compressed[count] == i && SameBits(compressed_values[count], a.values[i]), "NotAtMost, CompressStore");
      ++count;
    }
    Require(SameBits(max[i], is_greater ? a.values[i] : b.values[i]), "Max");
    const float first = not_negative.values[i], second = b.values[i];
    Require(std::isnan(first) || std::isnan(second)
                ? std::isnan(positive[i]) || positive[i] == first || positive[i] == second
                : positive[i] == std::max(first, second),
            "MaxOfPositive");
    Require(SameBits(min[i], a.values[i] < b.values[i] ? a.values[i] : b.values[i]), "Min");
    Require(std::isnan(a.values[i]) ? std::isnan(hinge[i]) : hinge[i] == std::max(a.values[i], 0.0f), "Hinge");
    Require(added[i] == others[i] + (is_greater ? add : 0), "AddIfGreater");
    Require(counted[i] == counts[i] + is_greater, "CountGreater");
  }
  Require(CountTrue(not_at_most) == count, "NotAtMost, CountTrue");
}

template <int kMask>
void CheckExchange() {
  const Numbers lanes = AnyNumbers();
  const Floats exchanged = Exchange<kMask>(lanes.Vector());
  for (int i = 0; i < kLanes; ++i) Require(SameBits(exchanged[i], lanes.values[i ^ kMask]), "Exchange");
  if constexpr (kMask > 1) CheckExchange<kMask / 2>();
}

// Every number up to where registers are left, and numbers around the powers of two and around the radix sort's first.
void CheckSort() {
  std::vector<int64_t> counts(10 * kLanes);
  std::iota(counts.begin(), counts.end(), 1);
  for (int64_t power = 16 * kLanes; power <= 2 * kMostInNetwork; power *= 2) {
    for (int64_t step : {-1, 0, 1, 5}) counts.push_back(power + step);
  }
  Row row;
  for (const int64_t count : counts) {
    row.targets.resize(count);
    row.thresholds.resize(count);
    for (float &value : row.thresholds) {
      value = generator() % 4 != 0 ? std::ldexp(static_cast<float>(generator()), -31) - 1.0f : AnyFloat();
      if (std::isnan(value)) value = kInfinity;
    }
    Sort(&row);
    std::vector<float> expected = row.thresholds;
    std::sort(expected.begin(), expected.end());
    const bool right = std::equal(expected.begin(), expected.end(), row.sorted.data());
    Require(right && row.sorted.data()[count] == kInfinity, "Sort");
    MergeEqual(&row);
    expected.erase(std::unique(expected.begin(), expected.end()), expected.end());
    Require(row.sorted_count == static_cast<int64_t>(expected.size()), "MergeEqual: how many differ");
    for (int64_t i = 0; i < row.sorted_count; ++i) {
      const auto below = std::count_if(row.thresholds.begin(), row.thresholds.end(),
                                       [&](float threshold) { return threshold < expected[i]; });
      Require(row.sorted.data()[i] == expected[i] && row.thresholds_below[i] == below, "MergeEqual");
    }
    Require(row.thresholds_below[row.sorted_count] == count, "MergeEqual: all");
  }
}

// One lane decides.
void CheckAnyNegative() {
  for (int lane = 0; lane < kLanes; ++lane) {
    int32_t ints[kLanes];
    for (int32_t &value : ints) value = static_cast<int32_t>(generator() >> 1);
    Require(!AnyNegative(Load(ints)), "AnyNegative of none");
    ints[lane] = ~ints[lane];
    Require(AnyNegative(Load(ints)), "AnyNegative");
  }
}

template <int kSize>
void CheckTable() {
  std::vector<float> entries(kSize);
  for (int i = 0; i < kSize; ++i) entries[i] = static_cast<float>(i + 1);
  const TableLookup<kSize> table(entries.data());
  for (int round = 0; round < 50 + kSize; ++round) {
    int32_t indices[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      indices[i] = static_cast<int32_t>(round < kSize ? round + i : generator()) & (kSize - 1);
    }
    const Floats found = table(Load(indices) * kSlotStep + kFirstSlot);
    for (int i = 0; i < kLanes; ++i) Require(found[i] == entries[indices[i]], "TableLookup");
  }
}

void CheckLookUpRows() {
  struct alignas(16) Four {
    float values[4];
  };
  std::vector<Four> rows(1000);
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int c = 0; c < 4; ++c) rows[i].values[c] = static_cast<float>(4 * i + c);
  }
  for (int round = 0; round < 100; ++round) {
    int32_t indices[kLanes];
    for (int32_t &index : indices) index = static_cast<int32_t>(generator() % rows.size());
    Floats columns[4];
    LookUpRows(rows.data(), Load(indices), columns);
    for (int c = 0; c < 4; ++c) {
      for (int i = 0; i < kLanes; ++i) Require(columns[c][i] == static_cast<float>(4 * indices[i] + c), "LookUpRows");
    }
  }
}

void CheckConversions() {
  Numbers lanes;
  int32_t ints[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    ints[i] = static_cast<int32_t>(generator() >> generator() % 31) - 1000;
    lanes.values[i] = std::ldexp(static_cast<float>(ints[i]), -8);
  }
  const Ints truncated = Truncate(lanes.Vector());
  const Floats floats = ToFloats(Load(ints));
  const Doubles low = LowHalf(lanes.Vector()), high = HighHalf(lanes.Vector());
  for (int i = 0; i < kLanes; ++i) {
    Require(floats[i] == static_cast<float>(ints[i]), "ToFloats");
    Require(truncated[i] == static_cast<int32_t>(lanes.values[i]), "Truncate");
    Require((i < kLanes / 2 ? low[i] : high[i - kLanes / 2]) == lanes.values[i], "LowHalf, HighHalf");
  }
}

// A fused operation rounds once; without one, integers are exact either way.
void CheckMultiplyAdd() {
  Numbers a, b, c;
  for (int i = 0; i < kLanes; ++i) {
    for (Numbers *lanes : {&a, &b, &c})
      lanes->values[i] = static_cast<float>(static_cast<int>(generator() % 2001) - 1000);
  }
  const Floats result = MulAdd(a.Vector(), b.Vector(), c.Vector());
  for (int i = 0; i < kLanes; ++i) {
    Require(result[i] == a.values[i] * b.values[i] + c.values[i], "MulAdd");
  }
}

// Numbers whose sum is exact in double in whatever order, and in float32 in none.
void CheckDoubleSum() {
  DoubleSum sum;
  double expected = 0;
  for (int round = 0; round < 1000; ++round) {
    Numbers lanes;
    for (int i = 0; i < kLanes; ++i) {
      lanes.values[i] = std::ldexp(static_cast<float>(1 + generator() % 1000), 30 * static_cast<int>(generator() % 2));
      expected += lanes.values[i];
    }
    sum.Add(lanes.Vector());
  }
  Require(sum.Total() == expected, "DoubleSum");
}

}  // namespace

int main() {
  CheckFloat16();
  CheckTable<kLanes>();
  if constexpr (kLanes != 8) CheckTable<2 * kLanes>();  // AVX2 has no other tables
  if constexpr (kLanes == 4) CheckTable<4 * kLanes>();
  CheckLookUpRows();
  for (int round = 0; round < 2000; ++round) {
    CheckLoadAndStore();
    CheckComparisons();
    CheckConversions();
    CheckMultiplyAdd();
    CheckAnyNegative();
    CheckExchange<kLanes / 2>();
    CheckExchange<kLanes - 1>();
  }
  CheckSort();
  CheckDoubleSum();
  std::printf("%lld checks, %lld wrong\n", static_cast<long long>(checks), static_cast<long long>(mistakes));
  return mistakes == 0 ? 0 : 1;
}
