#!/usr/bin/env python3
"""Breaks the kernels in small ways, one at a time, and shows that the tests notice each.

usage: python -m tools.mutation_check [--only PATTERN]

A mutant is a copy of custom_ops/ with one piece of text replaced. It is built without optimization to speak of and must
fail what the tests run. For the CPU kernels, built for one instruction set, that is the cases of fuzz_kernels.py, the
promises of accuracy.py, or the grid of sizes of tests/support/kernel_grid.py, whose bits must not depend on the number
of threads either. For the CUDA kernels, emulated, it is the cases and the grid; for the vector operations their unit
test, for NEON on an emulator where there is one (apt-get install g++-aarch64-linux-gnu qemu-user-static).
Mutants that compute the same are not listed. Exits non-zero if a mutant survives.
"""

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.builds import (
    EMULATED_ISA_FLAGS,
    ISA_FLAGS,
    build_emulated,
    build_vector_operations,
    can_emulate,
)

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-pthread", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
AOT, OPERATOR, DEFINITION, RANKS = "aot.h", "operator.h", "definition.h", "ranks.h"
MAIN, HALF = "cpu/multilabel_margin_loss.cpp", "cpu/float16.h"
SCHEDULE, REDUCTION = "cpu/schedule.h", "cpu/reduction.h"
SLICE, CLASS_PARALLEL = "cpu/slice.h", "cpu/class_parallel.cpp"
TARGETS, SORT, TILE = "cpu/row_targets.h", "cpu/row_sort.h", "cpu/row_tile.h"
METHOD = "cpu/row_method.h"
DIRECT, SEGMENTS, BUCKETS = "cpu/row_direct.h", "cpu/row_segments.h", "cpu/row_buckets.h"
LOSS, GRADIENT = "cpu/row_loss.h", "cpu/row_gradient.h"
SIMD, AVX512, AVX2, NEON = "cpu/simd.h", "cpu/simd_avx512.h", "cpu/simd_avx2.h", "cpu/simd_neon.h"
GENERIC, PLAIN = "cpu/simd_generic.h", "cpu/simd_plain.h"
# What every processor has; and the instruction set that shows a mutant of the vector operations.
BASE = next(iter(ISA_FLAGS))
VECTOR_OPERATIONS = {
    SIMD: BASE,
    SORT: BASE,
    AVX512: "avx512",
    AVX2: "avx2",
    NEON: "neon",
    GENERIC: "baseline",
    PLAIN: "baseline",
}
CUDA, CUDA_ROW, CUDA_TREE = "cuda/multilabel_margin_loss.cu", "cuda/row.cuh", "cuda/tree.cuh"
CUDA_LOSS, CUDA_GRADIENT, CUDA_CHECK = "cuda/loss.cuh", "cuda/gradient.cuh", "cuda/check.cuh"
CUDA_LAUNCH, CUDA_SLICE, CUDA_CLASS_PARALLEL = "cuda/launch.cuh", "cuda/slice.cuh", "cuda/class_parallel.cu"
CASES, CUDA_CASES = 4000, 600
# So many rows that each is one piece, whose threads have several vectors each.
MANY_VECTORS = """
import sys
import numpy as np
from tools.gpu_check import Mismatches, check_against_reference
from tests.support.host import Host
mismatches = Mismatches()
check_against_reference(Host(), sys.argv[1], mismatches, np.random.default_rng(0), [(513, 4500, 5)])
sys.exit(mismatches.count)
"""

# (what breaks, file, the text, what stands there instead)
MUTANTS = [
    ("rows without targets are not written", GRADIENT, "std::memset(output, 0, count * sizeof(*output));", ";"),
    (
        "a target equal to C is let through",
        TARGETS,
        "labels[count] >= batch.all_classes",
        "labels[count] > batch.all_classes",
    ),
    ("0 ends the list", TARGETS, "labels[count] >= 0;", "labels[count] > 0;"),
    ("only -1 ends the list", TARGETS, "labels[count] >= 0;", "labels[count] != -1;"),
    ("one label more is read", TARGETS, "count < batch.num_labels &&", "count <= batch.num_labels &&"),
    ("the last label is not read", TARGETS, "count < batch.num_labels &&", "count + 1 < batch.num_labels &&"),
    (
        "labels are found by the number of classes",
        TARGETS,
        "batch.target + index * batch.num_labels;",
        "batch.target + index * batch.classes;",
    ),
    ("the threshold's margin is 0", DEFINITION, "-(1.0f - p)", "-(0.0f - p)"),
    ("the threshold is rounded otherwise", DEFINITION, "-(1.0f - p)", "(p - 1.0f) * 1.0000001f"),
    ("lanes are not mirrored", SORT, "CompareLanes<kBlock - 1>(value)", "CompareLanes<kBlock / 2>(value)"),
    ("lanes are merged from half the distance", SORT, "MergeLanes<kBlock / 4>", "MergeLanes<kBlock / 8>"),
    ("the lower lane takes the greater", SORT, "upper ? Max(value, other) : Min", "upper ? Min(value, other) : Max"),
    ("vectors are not mirrored", SORT, "&vectors[v ^ (kBlock - 1)]", "&vectors[v ^ (kBlock / 2)]"),
    ("vectors are merged from half the distance", SORT, "MergeVectors<kBlock / 4>", "MergeVectors<kBlock / 8>"),
    ("blocks are not mirrored", SORT, "compare(begin + i, last - i,", "compare(begin + i, begin + block / 2 + i,"),
    ("blocks are merged from half the distance", SORT, "int64_t stride = block / 4;", "int64_t stride = block / 8;"),
    ("the last merge in registers is left out", SORT, "{ MergeVectors<kNumber / 2>(vectors); }", "{}"),
    ("negative keys are not turned round", SORT, "? ~key : key | kSign", "? key : key | kSign"),
    ("negative keys are not turned back", SORT, "? key & ~kSign : ~key", "? key & ~kSign : key"),
    ("the highest digit is not sorted by", SORT, "kDigits = 3, kBits", "kDigits = 2, kBits"),
    ("equal thresholds count one by one", SORT, "(threshold != previous)", "(threshold == threshold)"),
    ("the first threshold is not its own rank", SORT, "float previous = NAN;", "float previous = sorted[0];"),
    ("targets are not taken out", TILE, "scores[row.targets[row.by_tile[j]] - begin] = row.absent;", ";"),
    (
        "the padding counts",
        TILE,
        "i % kGroup != 0; ++i) scores[i] = row.absent;",
        "i % kGroup != 0; ++i) scores[i] = 1e30f;",
    ),
    ("a tile with targets is taken as it lies", TILE, "TileBegin(row, tile) == row.tile_ends[tile]) {", "true) {"),
    ("a tile's remainder is not copied", TILE, "if (!copy && count % kGroup == 0 &&", "if (!copy &&"),
    (
        "half of the vectors are not added",
        LOSS,
        "for (int v = 0; v < stride; ++v) hinges[v] += hinges[v + stride];",
        "for (int v = 0; v < stride / 2; ++v) hinges[v] += hinges[v + stride];",
    ),
    ("the loss is not divided by C", MAIN, "of_row /= static_cast<double>(batch.classes);", "of_row /= 1;"),
    ("float32 overflows on the way", LOSS, "if (!std::isfinite(sum.sum) &&", "if (false &&"),
    ("NaN of a target is dropped", DEFINITION, "return (score != score ? kNan : 0) |", "return"),
    (
        "NaN of another class is dropped",
        DEFINITION,
        "return kAnyOther | (score != score ? kNan : 0) |",
        "return kAnyOther |",
    ),
    ("+inf of a target is not seen", DEFINITION, "(score == INFINITY ? kHighTarget : 0)", "0"),
    ("-inf of a target is not seen", DEFINITION, "(score == -INFINITY ? kLowTarget : 0)", "0"),
    ("+inf of another class is not seen", DEFINITION, "(score == INFINITY ? kHighOther : 0)", "0"),
    ("-inf of another class is not seen", DEFINITION, "(score == -INFINITY ? kLowOther : 0)", "0"),
    ("inf - inf is infinite", DEFINITION, "has(kHighTarget | kHighOther) ||", ""),
    ("-inf - -inf is infinite", DEFINITION, " || has(kLowTarget | kLowOther)", ""),
    ("+inf is a score as any", DEFINITION, "if (has(kHighOther)) return INFINITY;", ""),
    ("a target of -inf adds infinity to nothing", DEFINITION, "has(kAnyOther) ? INFINITY : 0", "INFINITY"),
    (
        "a target's gradient has the wrong sign",
        GRADIENT,
        "total[target % kTile] -= active[*j];",
        "total[target % kTile] += active[*j];",
    ),
    (
        "a repeated class counts once",
        GRADIENT,
        "total[target % kTile] -= active[*j];",
        "total[target % kTile] = -active[*j];",
    ),
    ("the totals are not reset", GRADIENT, "total[row.targets[*j] % kTile] = 0;", ";"),
    ("the counts of the ranks are not added up", GRADIENT, "totals[k] += totals[k + 1];", ";"),
    ("a target counts its own rank", GRADIENT, "totals[row.ranks[j] + 1]", "totals[row.ranks[j]]"),
    (
        "a NaN row keeps its gradient",
        GRADIENT,
        "std::fill_n(output, std::min(tiles.end * kTile, batch.classes) - first, FromDouble<T>(NAN));",
        ";",
    ),
    ("the mean is a sum", REDUCTION, "sum / Divisor(", "sum + 0 * Divisor("),
    ("the mean of no rows is NaN", DEFINITION, "std::max<int64_t>(rows, 1)", "rows"),
    ("the gradient of the mean is that of the sum", DEFINITION, " * Divisor(reduction, rows);", ";"),
    ("the gradient is not divided by C", DEFINITION, "static_cast<double>(classes) * Divisor", "Divisor"),
    ("every row has the dout of the first", REDUCTION, "by_row_ ? row : 0", "by_row_ ? 0 : 0"),
    (
        "a shared row loses a worker's counts",
        SCHEDULE,
        "for (int worker = 1; worker < threads; ++worker)",
        "for (int worker = 1; worker < threads - 1; ++worker)",
    ),
    (
        "a shared row loses its last piece",
        SCHEDULE,
        "for (int64_t piece = 0; piece < pieces; ++piece) {\n      const PartialSum sum",
        "for (int64_t piece = 0; piece < pieces - (pieces > 1); ++piece) {\n      const PartialSum sum",
    ),
    ("float16 denormals are lost", GENERIC, "Floats>((denormal & is_denormal) |", "Floats>("),
    ("generic: ties of float16 go up", GENERIC, "+ 0xfff + (magnitude >> 13 & 1)", "+ 0x1000"),
    ("generic: denormal float16 are rounded elsewhere", GENERIC, "(magnitude) + 0.5f)", "(magnitude) + 0.25f)"),
    ("generic: float16 overflows later", GENERIC, "0x477ff000", "0x477fffff"),
    ("generic: float16 has no NaN", GENERIC, " | ((magnitude > 0x7f800000) & 0x200)", ""),
    ("generic: the sign of a stored float16 is lost", GENERIC, " | (bits >> 16 & 0x8000)", ""),
    ("float16 denormals are lost one by one", HALF, "(magnitude)) * 0x1p-24f;", "(magnitude)) * 0.0f;"),
    (
        "float16 is cut off instead of rounded",
        HALF,
        "const double places = (magnitude / unit + 0x1.8p52) - 0x1.8p52;",
        "const double places = static_cast<double>(static_cast<int>(magnitude / unit));",
    ),
    ("the sign of float16 is lost in vectors", GENERIC, " | (bits & 0x8000) << 16", ""),
    ("the sign of float16 is lost", HALF, "return value.bits & 0x8000u ? -result : result;", "return result;"),
    ("an output's size is not checked", AOT, "if (Elements(index) != size) {", "if (Elements(index) < 0) {"),
    ("no label is let through", OPERATOR, "if (batch.num_labels <= 0) {", "if (batch.num_labels < -1) {"),
    (
        "no class is let through",
        OPERATOR,
        "if (batch.rows < 0 || batch.classes <= 0) {",
        "if (batch.rows < 0 || batch.classes < 0) {",
    ),
    (
        "masked classes count for a threshold of -inf",
        TARGETS,
        "row->absent = row->least == -kInfinity ? -kInfinity : kLowest;",
        "row->absent = kLowest;",
    ),
    (
        "scores that are not finite go unnoticed",
        GRADIENT,
        "check_[v % 2] += group[v] * 0.0f;",
        "check_[v % 2] += Floats{};",
    ),
    ("the vectors' NaN is lost", TILE, "Max(absent, Load(input + i))", "Max(Load(input + i), absent)"),
    (
        "the remainder's NaN is lost",
        TILE,
        "score < row.absent ? row.absent : score;",
        "score > row.absent ? score : row.absent;",
    ),
    (
        "hinges below 0 are added",
        LOSS,
        "sum->Add(Hinge(scores[v] - threshold))",
        "sum->Add(scores[v] - threshold)",
    ),
    ("hinges below 0 are added directly", DIRECT, "hinges = Hinge(distance);", "hinges = distance;"),
    ("the last of the lines through an anchor is lost", DIRECT, "n < kNumber; ++n)", "n < kNumber - 1; ++n)"),
    ("all lines go through the first anchor", DIRECT, "score - lines_[kFirst];", "score - lines_[0];"),
    ("a line starts where the one before does", DIRECT, "lines_[kFirst + n])", "lines_[kFirst + n - 1])"),
    ("only the first anchors have lines", DIRECT, "hinges += HingesFrom<kFirst + kAnchored>(score);", ";"),
    (
        "a segment's own hinges are not added",
        SEGMENTS,
        "hinges[v] += MultiplyAdd(slope(places[v])",
        "hinges[v] = MultiplyAdd(slope(places[v])",
    ),
    (
        "what is not finite in a piece is not looked for",
        LOSS,
        "if (row.target_flags == 0 && std::isfinite(sum)) return {sum, 0};",
        "return {sum, 0};",
    ),
    (
        "targets that are not finite are not looked for",
        LOSS,
        "if (row.target_flags == 0 && std::isfinite(sum)) return {sum, 0};",
        "if (std::isfinite(sum)) return {sum, 0};",
    ),
    ("the gradient loses the dout", GRADIENT, ": k + i) * scale)", ": k + i))"),
    (
        "the gradient is not rounded once",
        GRADIENT,
        "if (std::memcmp(computed, &row.value[k], lanes * sizeof(float)) != 0) return false;",
        ";",
    ),
    (
        "the last class of a tile is not written",
        GRADIENT,
        "std::copy_n(padded, count, output",
        "std::copy_n(padded, count - 1, output",
    ),
    ("a NaN target is dropped from the gradient", GRADIENT, "if ((row.target_flags & kNan) != 0) return true;", ""),
    ("a target is not compared", DIRECT, "count_(row.targets.size())", "count_(row.targets.size() - 1)"),
    (
        "active classes are counted in one vector",
        DIRECT,
        "CountGreater(active, scores[v], threshold)",
        "CountGreater(active, scores[0], threshold)",
    ),
    (
        "a segment has a place too few",
        SEGMENTS,
        "(row->sorted_count >> levels) + 1;",
        "(row->sorted_count + (1 << levels) - 1) >> levels;",
    ),
    ("a segment's bound is its first threshold", SEGMENTS, "[start(segment) - 1];", "[start(segment)];"),
    ("segments share a place", SEGMENTS, "int place = segment >> (levels - kRootLevels);", "int place = segment >> 1;"),
    ("the root lacks a bound", SEGMENTS, "i < (1 << kRootLevels) - 1; ++i)", "i < (1 << kRootLevels) - 2; ++i)"),
    ("segments are not steeper and steeper", SEGMENTS, "steeper += 1;", "steeper = Fill(1);"),
    (
        "a segment's last threshold is not compared",
        SEGMENTS,
        "if (step < row->depth - 1)",
        "if (step < row->depth - 2)",
    ),
    (
        "the rest belongs to another base",
        SEGMENTS,
        "static_cast<double>(first) * anchor - sum",
        "static_cast<double>(first) * sorted[0] - sum",
    ),
    ("ranks begin at the segment", SEGMENTS, "row->first.data()[place] = static_cast<int32_t>(first);", ""),
    (
        "the first vector of a group is not sifted",
        TILE,
        "number += Count(active);",
        "number += v > 0 ? Count(active) : 0;",
    ),
    ("NaN is sifted out", GENERIC, "return ~(a <= b);", "return a > b;"),
    ("what is not sifted is not written", TILE, "    pass(i);\n", "    (void)pass;\n"),
    (
        "what is left in the last group counts again",
        TILE,
        "i % kGroup != 0; ++i) sifted->scores[i] = row.absent;",
        "i % kGroup != 0; ++i) sifted->scores[i] = kInfinity;",
    ),
    ("sifted scores that make no group are lost", TILE, "(sifted->number - begin, 0);", "(0, 0);"),
    (
        "sifted scores lie where their tile begins",
        TILE,
        "static_cast<int32_t>(i + v * kLanes)",
        "static_cast<int32_t>(i)",
    ),
    ("sifted scores lie in the first tile", GRADIENT, "scores, row, place, &sifted,", "scores, row, 0, &sifted,"),
    ("pieces lie at the first one", GRADIENT, "place = (tile - tiles.begin) * kTile;", "place = tile * kTile;"),
    ("merged thresholds count once", SORT, "static_cast<int32_t>(place + 1)", "static_cast<int32_t>(different)"),
    (
        "the thresholds have no ranks",
        METHOD,
        "Store(&row->ranks[j + v * kLanes], ranks[v]);",
        "Store(&row->ranks[j], ranks[v]);",
    ),
    ("many labels are taken for classes", TARGETS, "(vector < 0) | (vector > last)", "(vector < 0)"),
    ("many labels are not ended", TARGETS, "(vector < 0) | (vector > last)", "(vector > last)"),
    (
        "the sum of the thresholds counts equal ones once",
        BUCKETS,
        "sum += (count - row->thresholds_below[rank - 1]) * anchor;",
        "sum += anchor;",
    ),
    (
        "the rest of a rank belongs to another base",
        BUCKETS,
        "static_cast<float>(count * anchor - sum)",
        "static_cast<float>(count * sorted[0] - sum)",
    ),
    (
        "a bucket loses its fourth threshold",
        BUCKETS,
        "if (number > kRoom) bucket[i]",
        "if (number > kRoom + 1) bucket[i]",
    ),
    (
        "a segment without thresholds has no bucket",
        BUCKETS,
        "    row->first_bucket.data()[place] =",
        "    if (begin < end) row->first_bucket.data()[place] =",
    ),
    (
        "-inf lies in the last bucket",
        BUCKETS,
        "Max((score - origin(place)) * factor(place), Floats{})",
        "Max(Floats{}, (score - origin(place)) * factor(place))",
    ),
    (
        "the last bucket does not hold all that is greater",
        BUCKETS,
        "Truncate(Min(position, Fill(last_)))",
        "Truncate(position)",
    ),
    (
        "a bucket's last threshold is not compared",
        BUCKETS,
        "for (int i = 1; i < 4; ++i) ranks[v]",
        "for (int i = 1; i < 3; ++i) ranks[v]",
    ),
    (
        "a tie is active in a crowded bucket",
        BUCKETS,
        "(sorted_[first + half - 1] < score[lane])",
        "(sorted_[first + half - 1] <= score[lane])",
    ),
    (
        "crowded buckets are not searched",
        BUCKETS,
        "if (AnyNegative(crowded)) SearchCrowded",
        "if (false) SearchCrowded",
    ),
    # Slices of the classes.
    (
        "slice: all begin at the first class",
        TARGETS,
        "target -= static_cast<int32_t>(batch.first_class);",
        "target -= 0;",
    ),
    (
        "slice: a target before it is taken out",
        TARGETS,
        "return target >= 0 && target < batch.classes;",
        "return true;",
    ),
    (
        "slice: a target beyond it is out of range",
        TARGETS,
        "labels[count] >= batch.all_classes",
        "labels[count] >= batch.classes",
    ),
    (
        "slice: a short one has all targets",
        TARGETS,
        "if (batch.classes == batch.all_classes && batch.classes <= kTile) {",
        "if (batch.classes <= kTile) {",
    ),
    (
        "slice: each row has the target scores of the first",
        TARGETS,
        "const float *scores = batch.target_scores + index * batch.num_labels;",
        "const float *scores = batch.target_scores;",
    ),
    (
        "slice: each row has the target scores of the first where float32 overflows",
        TARGETS,
        "batch.target_scores[row.index * batch.num_labels + j]",
        "batch.target_scores[j]",
    ),
    (
        "slice: its own classes make few pairs",
        LOSS,
        "if (HasFewPairs(count, batch.all_classes)) return;",
        "if (HasFewPairs(count, batch.classes)) return;",
    ),
    (
        "slice: the gradient is divided by its own classes",
        REDUCTION,
        "batch.rows, batch.all_classes)",
        "batch.rows, batch.classes)",
    ),
    (
        "slice: the loss is divided by its own classes",
        SLICE,
        "row_sums[row] / static_cast<double>(batch.all_classes)",
        "row_sums[row] / static_cast<double>(batch.classes)",
    ),
    ("slice: it begins where the first one does", RANKS, "if (is_own) first_class = total;", ""),
    ("slice: the others' classes may be missing", RANKS, "if (total != place.all_classes) return", "if (false) return"),
    (
        "slice: its own classes are not in the header",
        RANKS,
        "if (!is_number || (is_own &&",
        "if (!is_number || (false &&",
    ),
    (
        "slice: the ranks may differ",
        RANKS,
        "if (sum * sum != squares * static_cast<double>(place.ranks)) return",
        "if (false) return",
    ),
    (
        "slice: a label equal to C is let through",
        SLICE,
        "labels[j] >= batch.all_classes",
        "labels[j] > batch.all_classes",
    ),
    ("slice: 0 is no label", SLICE, "labels[j] >= 0; ++j)", "labels[j] > 0; ++j)"),
    ("slice: a label before it is in it", SLICE, "if (i >= 0 && i < batch.classes) use", "if (i < batch.classes) use"),
    ("slice: a label behind it is in it", SLICE, "if (i >= 0 && i < batch.classes) use", "if (i >= 0) use"),
    ("slice: the counts are those of the first row", SLICE, "counts + row * batch.num_labels;", "counts;"),
    ("slice: a count of NaN is a number", SLICE, "if (std::isnan(of_row[j])) return false;", ""),
    ("slice: part of a loss is rounded", RANKS, "? static_cast<float>(loss - part[0]) : 0;", "? 0 : 0;"),
    ("slice: an infinite part lacks as much", RANKS, "part[1] = is_finite ?", "part[1] = true ?"),
    ("slice: the loss is that of the last rank", SLICE, "losses[row] += ReadPart", "losses[row] = ReadPart"),
    (
        "slice: all ranks have the same part",
        SLICE,
        "partial.Part(place.rank, row)",
        "partial.Part(0, row)",
    ),
    ("class parallel: a NaN is not told", CLASS_PARALLEL, "= has_nan ? NAN :", "= false ? NAN :"),
    (
        "class parallel: the counts are those of the slice",
        CLASS_PARALLEL,
        "has_nan, active.data(), gradient);",
        "has_nan, (active.assign(batch.num_labels, 0), active.data()), gradient);",
    ),
    # The vector operations.
    ("AVX-512: the other one where either is NaN", AVX512, "_mm512_max_ps(a, b)", "_mm512_max_ps(b, a)"),
    (
        "AVX-512: equal is greater",
        AVX512,
        "greater = _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ)",
        "greater = _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ)",
    ),
    (
        "AVX-512: NaN is greater",
        AVX512,
        "greater = _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ)",
        "greater = _mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ)",
    ),
    ("AVX-512: lanes are not put together", AVX512, "_mm512_maskz_compress_ps(lanes,", "_mm512_maskz_mov_ps(lanes,"),
    ("AVX-512: no lane is counted", AVX512, "__builtin_popcount(lanes)", "(lanes != 0)"),
    ("AVX-512: float16 is cut off", AVX512, "_MM_FROUND_TO_NEAREST_INT", "_MM_FROUND_TO_ZERO"),
    (
        "AVX-512: the high half is the low one",
        AVX512,
        "_mm512_extractf32x8_ps(value, 1)",
        "_mm512_extractf32x8_ps(value, 0)",
    ),
    ("AVX-512: the other one where either is NaN, of the less", AVX512, "_mm512_min_ps(a, b)", "_mm512_min_ps(b, a)"),
    ("AVX-512: the less of two is the greater", AVX512, "_mm512_max_epi32", "_mm512_min_epi32"),
    ("AVX-512: NaN is at most", AVX512, "_CMP_NLE_UQ", "_CMP_GT_OQ"),
    ("AVX-512: numbers are rounded to nearest", AVX512, "_mm512_cvttps_epi32", "_mm512_cvtps_epi32"),
    ("AVX-512: a table of two vectors has its first twice", AVX512, "(low_, lane, high_)", "(low_, lane, low_)"),
    ("AVX-512: a row is looked up for another lane", AVX512, "row(i + 8)), row(i + 12)", "row(i + 12)), row(i + 8)"),
    ("AVX-512: a column is another", AVX512, "_mm512_unpackhi_pd(low01, low23)", "_mm512_unpackhi_pd(high01, high23)"),
    ("AVX-512: the hinge of NaN is 0", AVX512, "_mm512_max_ps(Floats{}, value)", "_mm512_max_ps(value, Floats{})"),
    ("AVX2: the other one where either is NaN", AVX2, "_mm256_max_ps(a, b)", "_mm256_max_ps(b, a)"),
    ("AVX2: float16 is cut off", AVX2, "_MM_FROUND_TO_NEAREST_INT", "_MM_FROUND_TO_ZERO"),
    ("AVX2: the high half is the low one", AVX2, "_mm256_extractf128_ps(value, 1)", "_mm256_extractf128_ps(value, 0)"),
    ("AVX2: the other one where either is NaN, of the less", AVX2, "_mm256_min_ps(a, b)", "_mm256_min_ps(b, a)"),
    ("AVX2: the less of two is the greater", AVX2, "_mm256_max_epi32", "_mm256_min_epi32"),
    ("AVX2: NaN is at most", AVX2, "_CMP_NLE_UQ", "_CMP_GT_OQ"),
    (
        "AVX2: lanes are put together in reverse",
        AVX2,
        "lane = 0; lane < kLanes; ++lane)",
        "lane = kLanes; lane-- > 0;)",
    ),
    ("AVX2: no lane is counted", AVX2, "__builtin_popcount(lanes)", "(lanes != 0)"),
    ("AVX2: a row is looked up for another lane", AVX2, "row(i)), row(i + 4)", "row(i + 4)), row(i)"),
    ("AVX2: a column is another", AVX2, "_mm256_unpackhi_pd(low01, low23)", "_mm256_unpackhi_pd(high01, high23)"),
    (
        "NEON: one float16 is loaded for all",
        NEON,
        "vld1_u16(reinterpret_cast<const uint16_t *>(from))",
        "vdup_n_u16(from->bits)",
    ),
    ("NEON: float16 is stored without its fraction", NEON, "vcvt_f16_f32(value)", "vcvt_f16_f32(vrndq_f32(value))"),
    ("NEON: NaN where either is NaN", NEON, "vbslq_f32(vcgtq_f32(a, b), a, b)", "vmaxq_f32(a, b)"),
    ("NEON: NaN where either is NaN, of the less", NEON, "vbslq_f32(vcltq_f32(a, b), a, b)", "vminq_f32(a, b)"),
    ("NEON: the number where either is NaN", NEON, "vbslq_f32(vcgtq_f32(a, b), a, b)", "vmaxnmq_f32(a, b)"),
    ("NEON: the hinge of NaN is 0", NEON, "vmaxq_f32(Floats{}, value)", "vmaxnmq_f32(Floats{}, value)"),
    ("NEON: the product is not added", NEON, "return a * b + c;", "return a * b;"),
    (
        "NEON: equal is greater",
        NEON,
        "vreinterpretq_s32_u32(vcgtq_f32(a, b)), value)",
        "vreinterpretq_s32_u32(vcgeq_f32(a, b)), value)",
    ),
    ("NEON: what is added replaces the value", NEON, "vcgtq_f32(a, b)), value);", "vcgtq_f32(a, b)), Ints{});"),
    ("NEON: a lane more is counted", NEON, "return kLaneBytes.counts[lanes];", "return kLaneBytes.counts[lanes | 1];"),
    ("NEON: all lanes must be negative", NEON, "vminvq_s32(value) < 0", "vmaxvq_s32(value) < 0"),
    ("NEON: NaN is at most", NEON, "vbicq_u32(bits, vcleq_f32(a, b))", "vandq_u32(bits, vcgtq_f32(a, b))"),
    ("NEON: lanes are not put together", NEON, "4 * of.counts[lanes] + byte]", "4 * lane + byte]"),
    ("NEON: the less of two is the greater", NEON, "return vmaxq_f32(a, b);", "return vminq_f32(a, b);"),
    ("NEON: the low half is the high one", NEON, "vcvt_f64_f32(vget_low_f32(value))", "vcvt_high_f64_f32(value)"),
    ("NEON: the high half is the low one", NEON, "vcvt_high_f64_f32(value)", "vcvt_f64_f32(vget_low_f32(value))"),
    ("NEON: nothing is looked up", NEON, "vqtbl1q_u8(registers_, bytes)", "registers_"),
    (
        "NEON: a table of two registers has one",
        NEON,
        "vqtbl2q_u8(registers_, bytes)",
        "vqtbl1q_u8(registers_.val[0], bytes)",
    ),
    (
        "NEON: a table of four registers has two",
        NEON,
        "vqtbl4q_u8(registers_, bytes)",
        "vqtbl2q_u8(uint8x16x2_t{{registers_.val[0], registers_.val[1]}}, bytes)",
    ),
    (
        "NEON: a row is looked up for another lane",
        NEON,
        "a = row(low[0]), b = row(low[1])",
        "a = row(low[1]), b = row(low[0])",
    ),
    ("NEON: a row has half its size", NEON, "vget_low_s32(index), 4)", "vget_low_s32(index), 3)"),
    ("NEON: a column is another", NEON, "vtrn2q_f64(even_ab, even_cd)", "vtrn2q_f64(odd_ab, odd_cd)"),
    ("generic: the other one where either is NaN", GENERIC, "a > b ? a : b", "a < b ? b : a"),
    ("generic: infinities of float16 are numbers", GENERIC, " + ((magnitude >= 0x7c00) & (112 << 23))", ""),
    ("generic: the high half is the low one", GENERIC, "Doubles{value[2], value[3]}", "Doubles{value[0], value[1]}"),
    ("generic: the other one where either is NaN, of the less", GENERIC, "a < b ? a : b", "a > b ? b : a"),
    ("generic: the less of two is the greater", GENERIC, "return Max(a, b);", "return Min(a, b);"),
    ("generic: half of the lanes are asked", GENERIC, "((halves[0] | halves[1]) &", "((halves[0]) &"),
    (
        "generic: a lane is not counted",
        GENERIC,
        "-(lanes[0] + lanes[1] + lanes[2] + lanes[3])",
        "-(lanes[0] + lanes[1] + lanes[2])",
    ),
    ("generic: lanes are not put together", GENERIC, "to -= lanes[lane];", "++to;"),
    ("generic: one lane is looked up for all", GENERIC, "entries_[place[3]]", "entries_[place[0]]"),
    ("generic: the rows are not turned", GENERIC, "columns[i] = Floats{a[i], b[i], c[i], d[i]}", "columns[i] = row(i)"),
    ("plain: the hinge of NaN is 0", PLAIN, "Max(Floats{}, value)", "Max(value, Floats{})"),
    ("plain: equal is greater", PLAIN, "(a > b) & add", "(a >= b) & add"),
    ("plain: counting goes down", PLAIN, "count - (a > b)", "count + (a > b)"),
    ("the sum has the low half twice", SIMD, "high_ += HighHalf(value)", "high_ += LowHalf(value)"),
    ("the sum lacks a lane", SIMD, "i < kLanes / 2; ++i) total", "i < kLanes / 2 - 1; ++i) total"),
    # The CUDA kernels.
    ("CUDA: a target equal to C is let through", CUDA_ROW, "label >= AllClasses(row)", "label > AllClasses(row)"),
    ("CUDA: only the first labels are read", CUDA_ROW, "more = *end == kBlock;", "more = false;"),
    (
        "CUDA: the end of the labels is not waited for",
        CUDA_ROW,
        "    __syncthreads();\n    if (static_cast<int>(threadIdx.x) < *end) visit",
        "    if (static_cast<int>(threadIdx.x) < *end) visit",
    ),
    ("CUDA: marks of the tile before stay", CUDA_ROW, "shared->is_target[word] = 0;", ";"),
    (
        "CUDA: the marks are not waited for",
        CUDA_ROW,
        "1u << (bit % 32));\n  }\n  __syncthreads();",
        "1u << (bit % 32));\n  }",
    ),
    (
        "CUDA: what is outside of the piece counts",
        CUDA_ROW,
        "if (i + e < begin || i + e >= end) absent |= 1u << e;",
        ";",
    ),
    (
        "CUDA: a vector is worked on twice",
        CUDA_ROW,
        "after_next = load(i + 2 * kStride);",
        "after_next = load(i + kStride);",
    ),
    (
        "CUDA: equal thresholds share a place",
        CUDA_TREE,
        "other < mine || (other == mine && i < thread)",
        "other < mine",
    ),
    (
        "CUDA: the sorted thresholds are not waited for",
        CUDA_TREE,
        "  __syncthreads();\n  const int levels",
        "  const int levels",
    ),
    ("CUDA: the tree has a level too few", CUDA_TREE, "levels = 32 - __clz(count)", "levels = 31 - __clz(count)"),
    ("CUDA: a tie is active", CUDA_TREE, "scores[e] > nodes[ranks[e]]", "scores[e] >= nodes[ranks[e]]"),
    ("CUDA: each tree has the first targets", CUDA_TREE, "TargetScore(row, first + j)", "TargetScore(row, j)"),
    ("CUDA: the rest lacks the threads before", CUDA_LOSS, "(before + sums[item])", "sums[item]"),
    ("CUDA: scores that are not finite go unnoticed", CUDA_LOSS, "check += scores[e] * 0.0f;", ";"),
    (
        "CUDA: thresholds that are not finite go unnoticed",
        CUDA_LOSS,
        "check += Threshold(TargetScore(row, first + j)) * 0.0f;",
        ";",
    ),
    (
        "CUDA: float32 overflows on the way",
        CUDA_LOSS,
        "if (!isfinite(sum) && !DecideSum(flags)) sum =",
        "if (false) sum =",
    ),
    ("CUDA: hinges below 0 are added", CUDA_LOSS, "fmaxf(scores[e] - threshold, 0.0f)", "scores[e] - threshold"),
    ("CUDA: the flags of a piece are lost", CUDA_LOSS, "sum.flags |= partials[group * pieces + piece].flags;", ";"),
    (
        "CUDA: the last piece is lost",
        CUDA_LOSS,
        "piece < pieces; ++piece) {",
        "piece < pieces - (pieces > 1); ++piece) {",
    ),
    (
        "CUDA: the loss is not divided by C",
        CUDA_LOSS,
        "RowSum(sum) / static_cast<double>(problem.classes)",
        "RowSum(sum)",
    ),
    ("CUDA: the mean is a sum", CUDA_LOSS, "Round(total / rows, loss)", "Round(total, loss)"),
    (
        "CUDA: one way of counting is added up",
        CUDA_GRADIENT,
        "rank > 0 && way < ways; ++way",
        "rank > 0 && way < 1; ++way",
    ),
    ("CUDA: a target counts its own rank", CUDA_GRADIENT, "shared->counts[less[0] + 1]", "shared->counts[less[0]]"),
    ("CUDA: a repeated class counts once", CUDA_GRADIENT, "times += row.labels[other] == target;", "times = 1;"),
    (
        "CUDA: what is not in the piece is written",
        CUDA_GRADIENT,
        "if (!(absent >> e & 1)) to[e] = vector.values[e];",
        "to[e] = vector.values[e];",
    ),
    ("CUDA: a NaN is lost", CUDA_GRADIENT, "has_nan = has_nan || isnan(scores[e]);", ";"),
    ("CUDA: the NaN of a target is lost", CUDA_GRADIENT, "has_nan = has_nan || isnan(TargetScore(row, j));", ";"),
    ("CUDA: the NaN of a piece is lost", CUDA_GRADIENT, "atomicOr(&row_counters[0], 1u)", "(void)row_counters"),
    (
        "CUDA: a piece's counts replace the others'",
        CUDA_GRADIENT,
        "atomicAdd(&row_counters[k], sum)",
        "row_counters[k] = sum",
    ),
    ("CUDA: only the last of many trees counts", CUDA_GRADIENT, "active[m] += ranks[m]", "active[m] = ranks[m]"),
    (
        "CUDA: only the first classes are searched",
        CUDA_GRADIENT,
        "ToFloat(row.scores[first + i])",
        "ToFloat(row.scores[i])",
    ),
    ("CUDA: the gradient loses the dout", CUDA_GRADIENT, "Round(k * scale, &rounded)", "Round(k, &rounded)"),
    (
        "CUDA: the counters are not reset",
        CUDA,
        "if (shared) Check(cudaMemsetAsync(counters",
        "if (false) Check(cudaMemsetAsync(counters",
    ),
    (
        "CUDA: the loss of no rows is not written",
        CUDA,
        "if (reduction != Reduction::kNone) Check(cudaMemsetAsync(loss",
        "if (false) Check(cudaMemsetAsync(loss",
    ),
    (
        "CUDA: targets are not checked",
        CUDA_LAUNCH,
        'std::strcmp(wanted, "1") == 0',
        'std::strcmp(wanted, "2") == 0',
    ),
    ("CUDA: the check lets C through", CUDA_CHECK, "if (label >= classes)", "if (label > classes)"),
    (
        "CUDA: the check names any target",
        CUDA_CHECK,
        "atomicMin(first, static_cast<unsigned long long>(index * num_labels + j))",
        "*first = index * num_labels + j",
    ),
    ("CUDA slice: it begins at class 0", CUDA_ROW, "return row.first_class;", "return 0;"),
    (
        "CUDA slice: a label behind it is in it",
        CUDA_SLICE,
        "if (i < 0 || i >= problem.classes) return;",
        "if (i < 0) return;",
    ),
    ("CUDA slice: the pieces' flags are lost", CUDA_SLICE, "sum.flags |= pieces[row * number + piece].flags;", ";"),
    (
        "CUDA slice: a NaN is not told",
        CUDA_SLICE,
        "has_nan ? NAN : static_cast<float>",
        "false ? NAN : static_cast<float>",
    ),
    ("CUDA slice: only the first tree's targets are counted", CUDA_SLICE, "&counts[first + j]", "&counts[j]"),
    ("CUDA slice: the loss is that of the last rank", CUDA_SLICE, "row_loss += ReadPart", "row_loss = ReadPart"),
    (
        "CUDA slice: a repeated class counts once",
        CUDA_SLICE,
        "times += row.labels[other] == row.labels[j];",
        "times = 1;",
    ),
    (
        "CUDA slice: the gradient is divided by its own classes",
        CUDA_SLICE,
        "problem.extent->all_classes);\n  for",
        "problem.classes);\n  for",
    ),
    ("CUDA slice: faults are not found", CUDA_CLASS_PARALLEL, "if (WantsChecks()) FindFaults(last);", ""),
]


def compile_objects(sources, folder, isas_of_rows, file=""):
    """Compiles the library's sources, row.cpp for each of the isas; only those that ``file`` is a part of. Returns the
    objects by name."""
    jobs = {path.stem: [path, []] for path in sorted((sources / "cpu").glob("*.cpp")) if path.stem != "row"}
    for isa in isas_of_rows:
        jobs[f"row_{isa}"] = [sources / "cpu" / "row.cpp", [f"-DMLML_ISA={isa}", *ISA_FLAGS[isa]]]
    objects = {}
    for name, (path, extra) in jobs.items():
        parts = subprocess.run(["g++", *FLAGS, *extra, "-MM", path], capture_output=True, text=True, check=True).stdout
        if Path(file).name not in parts:
            continue
        objects[name] = folder / f"{name}.o"
        subprocess.run(["g++", *FLAGS, *extra, "-c", path, "-o", objects[name]], check=True)
    return objects


def link(objects, library):
    subprocess.run(["g++", "-shared", "-pthread", "-o", library, *objects.values()], check=True)


def first_failure(commands):
    """The name of the first of the commands that fails, or None; and what the others printed."""
    environment = {**os.environ, "MLML_SIMD": BASE, "PYTHONPATH": str(ROOT)}
    outputs = []
    for name, command, extra in commands:
        try:
            result = subprocess.run(
                [sys.executable, *map(str, command)],
                env={**environment, **extra},
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{name} (hangs)", outputs
        if result.returncode != 0:
            return name, outputs
        outputs.append(result.stdout)
    return None, outputs


def cpu_failure(library):
    """What the CPU library fails, or None."""
    fuzz = ["-m", "tools.fuzz_kernels", "--library", library, "--seed", "1"]
    grid = ["-m", "tests.support.kernel_grid", library]
    name, outputs = first_failure(
        [
            ("cases of the fuzzer", [*fuzz, "--cases", CASES], {}),
            ("measure of accuracy", ["-m", "tools.accuracy", "--library", library, "--quick"], {}),
            ("grid of sizes", grid, {"OMP_NUM_THREADS": "1"}),
            ("grid of sizes, 3 threads", grid, {"OMP_NUM_THREADS": "3"}),
        ]
    )
    return name or (None if outputs[-1] == outputs[-2] else "same bits for any number of threads")


def cuda_failure(library):
    """What the emulated CUDA library fails, or None."""
    fuzz = ["-m", "tools.fuzz_kernels", "--library", library, "--seed", "1"]
    grid = ["-m", "tests.support.kernel_grid", library]
    name, outputs = first_failure(
        [
            ("cases of the fuzzer, targets checked", [*fuzz, "--cases", CUDA_CASES], {"MLML_CHECK_TARGETS": "1"}),
            ("cases of the fuzzer", [*fuzz, "--cases", CUDA_CASES], {}),
            ("rows of many vectors", ["-c", MANY_VECTORS, library], {}),
            ("grid of sizes", grid, {}),
            ("grid of sizes, once more", grid, {}),
        ]
    )
    return name or (None if outputs[-1] == outputs[-2] else "same bits for any order of threads")


def vector_operations_failure(folder, isa, kernels):
    """The unit test if it fails, or None."""
    command = build_vector_operations(folder, isa, kernels)
    passes = subprocess.run(command, capture_output=True, check=False).returncode == 0
    return None if passes else "test of vector operations"


def mutate(mutant, to):
    """Copies custom_ops/ with the mutant's text in it."""
    _, file, text, instead = mutant
    shutil.copytree(ROOT / "custom_ops", to)
    code = (to / file).read_text()
    if code.count(text) != 1:
        sys.exit(f"{file} has {code.count(text)} places that read: {text}")
    (to / file).write_text(code.replace(text, instead))


def failure(file, kernels, folder, originals):
    """What a copy of custom_ops/ fails, of all that shows a mistake in ``file``, or None."""
    if file in VECTOR_OPERATIONS:
        return vector_operations_failure(folder, VECTOR_OPERATIONS[file], kernels)
    if file.startswith("cuda/"):
        return cuda_failure(build_emulated(folder, "-O1", kernels))
    link({**originals, **compile_objects(kernels, folder, [BASE], file)}, folder / "_cpu.so")
    return cpu_failure(folder / "_cpu.so")


def isas(library):
    """The instruction sets that the processor has."""
    names = ctypes.CDLL(str(library)).MultilabelMarginLossIsas
    names.restype = ctypes.c_char_p
    return names().decode().split()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PATTERN", help="mutants whose description has this in it")
    arguments = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if arguments.only in mutant[0]]
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary, "original")
        base.mkdir()
        originals = compile_objects(ROOT / "custom_ops", base, ISA_FLAGS)
        link(originals, base / "_cpu.so")
        here = [*isas(base / "_cpu.so"), *(EMULATED_ISA_FLAGS if can_emulate() else ())]
        missing = [mutant[0] for mutant in mutants if VECTOR_OPERATIONS.get(mutant[1], BASE) not in here]
        for name in missing:
            print(f"{'NOT RUN: the processor has no such instruction set':<55}{name}")
        mutants = [mutant for mutant in mutants if mutant[0] not in missing]
        # One file for each way of testing.
        files = {VECTOR_OPERATIONS.get(file, file.startswith("cuda/")): file for _, file, _, _ in mutants}
        for file in files.values():
            reason = failure(file, ROOT / "custom_ops", base, originals)
            if reason:
                sys.exit(f"The kernels fail as they are: {reason}")

        def run(numbered):
            number, mutant = numbered
            folder = Path(temporary, str(number))
            folder.mkdir()
            mutate(mutant, folder / "custom_ops")
            try:
                reason = failure(mutant[1], folder / "custom_ops", folder, originals)
                outcome = f"killed by the {reason}" if reason else "SURVIVES"
            except subprocess.CalledProcessError:
                reason, outcome = None, "DOES NOT COMPILE"
            shutil.rmtree(folder)
            print(f"{outcome:<55}{mutant[0]}", flush=True)
            return reason

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            reasons = list(pool.map(run, enumerate(mutants)))
    survivors = reasons.count(None)
    print(f"{len(mutants)} mutants, {len(mutants) - survivors} killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
