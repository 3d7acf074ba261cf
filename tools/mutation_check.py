#!/usr/bin/env python3
"""Breaks the CPU kernels in small ways, one at a time, and shows that the tests notice each.

usage: python tools/mutation_check.py [--only PATTERN]

A mutant is a copy of custom_ops/ with one piece of text replaced. It is built without optimization to speak of, for one
instruction set, and must fail what the tests run: the cases of tools/fuzz_kernels.py, the promises of
tools/accuracy.py, or the grid of sizes of tests/kernel_grid.py, whose bits must not depend on the number of threads
either. Mutants that compute the same are not listed. Exits non-zero if a mutant survives.
"""

import argparse
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-pthread", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
ISA_FLAGS = runpy.run_path(str(ROOT / "custom_ops" / "cpu" / "isa_flags.py"))["ISA_FLAGS"]
AOT, DEFINITION = "aot.h", "definition.h"
MAIN, HALF = "cpu/multilabel_margin_loss.cpp", "cpu/float16.h"
GENERIC = "cpu/simd_generic.h"
TARGETS, SORT, TILE = "cpu/row_targets.h", "cpu/row_sort.h", "cpu/row_tile.h"
DIRECT, SEGMENTS, BUCKETS = "cpu/row_direct.h", "cpu/row_segments.h", "cpu/row_buckets.h"
LOSS, GRADIENT = "cpu/row_loss.h", "cpu/row_gradient.h"
CASES = 4000

# (what breaks, file, the text, what stands there instead)
MUTANTS = [
    ("a target equal to C is let through", TARGETS, "labels[count] >= batch.classes", "labels[count] > batch.classes"),
    ("0 ends the list", TARGETS, "labels[count] >= 0;", "labels[count] > 0;"),
    ("only -1 ends the list", TARGETS, "labels[count] >= 0;", "labels[count] != -1;"),
    ("one label more is read", TARGETS, "count < batch.num_labels &&", "count <= batch.num_labels &&"),
    ("the last label is not read", TARGETS, "count < batch.num_labels &&", "count + 1 < batch.num_labels &&"),
    ("labels are found by the number of classes", TARGETS, "index * batch.num_labels;", "index * batch.classes;"),
    ("the threshold's margin is 0", DEFINITION, "-(1.0f - p)", "-(0.0f - p)"),
    ("the threshold is rounded otherwise", DEFINITION, "-(1.0f - p)", "std::nextafter(p - 1.0f, INFINITY)"),
    (
        "equal thresholds do not share a rank",
        SORT,
        "rank += LanesGreater(threshold, Load(&row->thresholds[i]))",
        "rank += kLanes - LanesGreater(Load(&row->thresholds[i]), threshold)",
    ),
    ("equal thresholds leave gaps", SORT, "sorted[j] = std::max(sorted[j], sorted[j - 1])", "sorted[j] = sorted[j]"),
    ("negative keys are not turned round", SORT, "? ~bits : bits | 0x80000000u", "? bits : bits | 0x80000000u"),
    (
        "the highest byte is not sorted by",
        SORT,
        "for (const SortEntry &entry : entries) moved",
        "if (byte < 3) for (const SortEntry &entry : entries) moved",
    ),
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
    ("the loss is not divided by C", LOSS, "RowSum(sum) / static_cast<double>(batch.classes)", "RowSum(sum)"),
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
        "total[row.targets[*j] % kTile] -= active[*j];",
        "total[row.targets[*j] % kTile] += active[*j];",
    ),
    (
        "a repeated class counts once",
        GRADIENT,
        "total[row.targets[*j] % kTile] -= active[*j];",
        "total[row.targets[*j] % kTile] = -active[*j];",
    ),
    ("the totals are not reset", GRADIENT, "total[row.targets[*j] % kTile] = 0;", ";"),
    ("the counts of the ranks are not added up", GRADIENT, "totals[k] += totals[k + 1];", ";"),
    ("a target counts its own rank", GRADIENT, "totals[row.ranks[j] + 1]", "totals[row.ranks[j]]"),
    ("a NaN row keeps its gradient", GRADIENT, "std::fill_n(output, batch.classes, FromDouble<T>(NAN));", ";"),
    ("the mean is a sum", MAIN, "sum / Divisor(", "sum + 0 * Divisor("),
    ("the mean of no rows is NaN", DEFINITION, "std::max<int64_t>(rows, 1)", "rows"),
    ("the gradient of the mean is that of the sum", DEFINITION, " * Divisor(reduction, rows);", ";"),
    ("the gradient is not divided by C", DEFINITION, "static_cast<double>(classes) * Divisor", "Divisor"),
    ("every row has the dout of the first", MAIN, "dout[reduction == Reduction::kNone ? row : 0]", "dout[0]"),
    (
        "a shared row loses a worker's counts",
        MAIN,
        "for (int worker = 1; worker < threads; ++worker)",
        "for (int worker = 1; worker < threads - 1; ++worker)",
    ),
    (
        "a shared row loses its last piece",
        MAIN,
        "for (int64_t piece = 0; piece < pieces; ++piece) {\n      const PartialSum sum",
        "for (int64_t piece = 0; piece < pieces - (pieces > 1); ++piece) {\n      const PartialSum sum",
    ),
    ("float16 denormals are lost", GENERIC, "(denormal & is_denormal) |", ""),
    ("float16 denormals are lost one by one", HALF, "(magnitude)) * 0x1p-24f;", "(magnitude)) * 0.0f;"),
    (
        "float16 is cut off instead of rounded",
        HALF,
        "const double places = (magnitude / unit + 0x1.8p52) - 0x1.8p52;",
        "const double places = static_cast<double>(static_cast<int>(magnitude / unit));",
    ),
    ("the sign of float16 is lost in vectors", GENERIC, " | (bits & 0x8000) << 16", ""),
    ("the sign of float16 is lost", HALF, "return value.bits & 0x8000u ? -result : result;", "return result;"),
    ("an output's size is not checked", AOT, "if (overflows || elements != size) {", "if (overflows) {"),
    ("no label is let through", AOT, "if (batch.num_labels <= 0) {", "if (batch.num_labels < -1) {"),
    (
        "no class is let through",
        AOT,
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
    ("the vectors' NaN is lost", TILE, "Max(absent, Load(input + begin + i))", "Max(Load(input + begin + i), absent)"),
    (
        "the remainder's NaN is lost",
        TILE,
        "score < row.absent ? row.absent : score;",
        "score > row.absent ? score : row.absent;",
    ),
    (
        "hinges below 0 are added",
        LOSS,
        "sum->Add(Max(Floats{}, scores[v] - threshold))",
        "sum->Add(scores[v] - threshold)",
    ),
    ("hinges below 0 are added directly", DIRECT, "Max(Floats{}, scores[v] - threshold)", "scores[v] - threshold"),
    (
        "a segment's own hinges are not added",
        SEGMENTS,
        "hinges[v] += MultiplyAdd(count(places[v])",
        "hinges[v] = MultiplyAdd(count(places[v])",
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
    ("the gradient loses the dout", GRADIENT, "FromDouble<T>(active * scale)", "FromDouble<T>(active)"),
    (
        "the gradient is not rounded once",
        GRADIENT,
        "if (ToFloat(rounded[lane]) != row.value[k + lane]) return false;",
        ";",
    ),
    (
        "rows without targets are not written",
        GRADIENT,
        "std::memset(output + begin, 0, (end - begin) * sizeof(T));",
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
        "row->sorted_count / segments + 1;",
        "(row->sorted_count + segments - 1) / segments;",
    ),
    ("a segment's bound is its first threshold", SEGMENTS, "[start(segment) - 1];", "[start(segment)];"),
    (
        "places are not in reverse",
        SEGMENTS,
        "const int place = Reversed(segment, levels);",
        "const int place = segment;",
    ),
    (
        "a segment's last threshold is not compared",
        SEGMENTS,
        "if (step < row->depth - 1)",
        "if (step < row->depth - 2)",
    ),
    (
        "the rest belongs to another base",
        SEGMENTS,
        "static_cast<double>(first) * base - sum",
        "static_cast<double>(first) * sorted[0] - sum",
    ),
    ("ranks begin at the segment", SEGMENTS, "row->first.data()[place] = static_cast<int32_t>(first);", ""),
    (
        "the first vector of a group is not sifted",
        TILE,
        "number += AnyNotAtMost(scores[v], least);",
        "number += v > 0 && AnyNotAtMost(scores[v], least);",
    ),
    ("NaN is sifted out", GENERIC, "Any(~(a <= b))", "Any(a > b)"),
    ("what is not sifted is not written", TILE, "    rest(i);\n", "    (void)rest;\n"),
    (
        "vectors stand in for missing ones",
        TILE,
        "v < missing ? Fill(row.absent) : Load",
        "v < 0 ? Fill(row.absent) : Load",
    ),
    (
        "merged thresholds count once",
        SORT,
        "thresholds_below[++last] = static_cast<int32_t>(place);",
        "thresholds_below[last + 1] = last + 1, ++last;",
    ),
    ("ranks are not merged", SORT, "rank = merged[rank];", "(void)rank;"),
    (
        "the sum of the thresholds counts equal ones once",
        BUCKETS,
        "sum += (count - row->thresholds_below[rank - 1]) * base;",
        "sum += base;",
    ),
    (
        "the rest of a rank belongs to another base",
        BUCKETS,
        "static_cast<float>(count * base - sum)",
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
]


def compile_objects(sources, folder, isas_of_rows):
    """Compiles the library's sources, row.cpp for each of the isas. Returns the objects by name, or None."""
    jobs = {path.stem: [path, []] for path in sorted((sources / "cpu").glob("*.cpp")) if path.stem != "row"}
    for isa in isas_of_rows:
        jobs[f"row_{isa}"] = [sources / "cpu" / "row.cpp", [f"-DMLML_ISA={isa}", *ISA_FLAGS[isa]]]
    objects = {}
    for name, (path, extra) in jobs.items():
        objects[name] = folder / f"{name}.o"
        command = ["g++", *FLAGS, *extra, "-c", path, "-o", objects[name]]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return None
    return objects


def link(objects, library):
    subprocess.run(["g++", "-shared", "-pthread", "-o", library, *objects.values()], check=True)


def fails_a_test(library, catcher):
    """The first of the tests that fails, or None."""
    paths = [str(ROOT / folder) for folder in ("tests", "benchmarks", "tools")]
    environment = {**os.environ, "MLML_SIMD": "baseline", "PYTHONPATH": os.pathsep.join(paths)}
    fuzz = [ROOT / "tools" / "fuzz_kernels.py", "--library", library, "--catcher", catcher, "--seed", "1"]
    grid = [ROOT / "tests" / "kernel_grid.py", library]
    digests = set()
    for name, command, extra in (
        ("cases of the fuzzer", [*fuzz, "--cases", str(CASES)], {}),
        ("measure of accuracy", [ROOT / "tools" / "accuracy.py", "--library", library, "--quick"], {}),
        ("grid of sizes", grid, {"OMP_NUM_THREADS": "1"}),
        ("grid of sizes, 3 threads", grid, {"OMP_NUM_THREADS": "3"}),
    ):
        try:
            result = subprocess.run(
                [sys.executable, *map(str, command)],
                env={**environment, **extra},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{name} (hangs)"
        if result.returncode != 0:
            return name
        if grid[0] in command:
            digests.add(result.stdout)
    return "same bits for any number of threads" if len(digests) > 1 else None


def check(mutant, folder, originals, catcher):
    """What kills the mutant, or None if it survives."""
    _, file, text, instead = mutant
    sources = folder / "custom_ops"
    shutil.copytree(ROOT / "custom_ops", sources)
    code = (sources / file).read_text()
    if code.count(text) != 1:
        sys.exit(f"{file} has {code.count(text)} places that read: {text}")
    (sources / file).write_text(code.replace(text, instead))
    objects = compile_objects(sources, folder, ["baseline"])
    if objects is None:
        sys.exit(f"{file} does not compile with: {instead}")
    link({**originals, **objects}, folder / "_cpu.so")
    return fails_a_test(folder / "_cpu.so", catcher)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PATTERN", help="mutants whose description has this in it")
    arguments = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if arguments.only in mutant[0]]
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary, "original")
        base.mkdir()
        catcher = base / "call.so"
        source = ROOT / "tests" / "native" / "call.cpp"
        subprocess.run(["g++", "-O1", "-shared", "-fPIC", "-o", catcher, source], check=True)
        originals = compile_objects(ROOT / "custom_ops", base, ISA_FLAGS)
        link(originals, base / "_cpu.so")
        reason = fails_a_test(base / "_cpu.so", catcher)
        if reason:
            sys.exit(f"The kernels fail as they are: {reason}")

        def run(numbered):
            number, mutant = numbered
            folder = Path(temporary, str(number))
            folder.mkdir()
            reason = check(mutant, folder, originals, catcher)
            shutil.rmtree(folder)
            print(f"{'killed by the ' + reason if reason else 'SURVIVES':<45}{mutant[0]}", flush=True)
            return reason

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            reasons = list(pool.map(run, enumerate(mutants)))
    survivors = reasons.count(None)
    print(f"{len(mutants)} mutants, {len(mutants) - survivors} killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
