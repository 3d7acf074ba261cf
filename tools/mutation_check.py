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
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-pthread", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
LEVELS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
}
ROW, MAIN, AOT, HALF, SIMD = "cpu/row.cpp", "cpu/multilabel_margin_loss.cpp", "aot.h", "cpu/float16.h", "cpu/simd.h"
CASES = 4000

# (what breaks, file, the text, what stands there instead)
MUTANTS = [
    ("a target equal to C is let through", ROW, "labels[count] >= batch.classes", "labels[count] > batch.classes"),
    ("0 ends the list", ROW, "labels[count] >= 0;", "labels[count] > 0;"),
    ("only -1 ends the list", ROW, "labels[count] >= 0;", "labels[count] != -1;"),
    ("one label more is read", ROW, "count < batch.labels &&", "count <= batch.labels &&"),
    ("the last label is not read", ROW, "count < batch.labels &&", "count + 1 < batch.labels &&"),
    ("labels are found by the number of classes", ROW, "index * batch.labels;", "index * batch.classes;"),
    ("the threshold's margin is 0", ROW, "-(1.0f - score)", "-(0.0f - score)"),
    ("the threshold is rounded otherwise", ROW, "-(1.0f - score)", "std::nextafter(score - 1.0f, kInfinity)"),
    (
        "equal thresholds do not share a rank",
        ROW,
        "rank += LanesGreater(threshold, Load(&row->thresholds[i]))",
        "rank += kLanes - LanesGreater(Load(&row->thresholds[i]), threshold)",
    ),
    ("equal thresholds leave gaps", ROW, "sorted[j] = std::max(sorted[j], sorted[j - 1])", "sorted[j] = sorted[j]"),
    ("negative keys are not turned round", ROW, "? ~bits : bits | 0x80000000u", "? bits : bits | 0x80000000u"),
    (
        "the highest byte is not sorted by",
        ROW,
        "for (const SortEntry &entry : entries) moved",
        "if (byte < 3) for (const SortEntry &entry : entries) moved",
    ),
    (
        "the tree has a level too few",
        ROW,
        "while (row->leaf << row->levels <= count) ++row->levels;",
        "while (row->leaf << row->levels < count) ++row->levels;",
    ),
    ("a node is its neighbour", ROW, "stride / 2) * row->leaf - 1]", "stride / 2) * row->leaf]"),
    (
        "masked classes count for a threshold of -inf",
        ROW,
        "row->absent = masked ? -kInfinity : kLowest;",
        "row->absent = kLowest;",
    ),
    ("targets are not taken out", ROW, "scores[row.targets[row.by_block[j]] - begin] = row.absent;", ";"),
    (
        "the padding counts",
        ROW,
        "i % kGroup != 0; ++i) scores[i] = row.absent;",
        "i % kGroup != 0; ++i) scores[i] = 1e30f;",
    ),
    ("a block with targets is taken as it lies", ROW, "BlockBegin(row, block) == row.block_ends[block]) {", "true) {"),
    ("a block's remainder is not copied", ROW, "if (!copy && count % kGroup == 0 &&", "if (!copy &&"),
    ("scores that are not finite go unnoticed", ROW, "check_[v % 2] += group[v] * 0.0f;", "check_[v % 2] += Floats{};"),
    ("the sum of the thresholds is one behind", ROW, "sum += sorted[k - 1];", "sum += k > 1 ? sorted[k - 2] : 0;"),
    (
        "the rest belongs to another base",
        ROW,
        "static_cast<float>(static_cast<double>(k) * base - sum)",
        "static_cast<float>(static_cast<double>(k) * sorted[0] - sum)",
    ),
    ("the vectors' NaN is lost", ROW, "    check += score * 0.0f;", "    check += Floats{};"),
    ("the remainder's NaN is lost", ROW, "    sum += score * 0.0f;", "    sum += 0.0f;"),
    (
        "hinges below 0 are added",
        ROW,
        "sum->Add(Max(scores[v] - threshold, Floats{}))",
        "sum->Add(scores[v] - threshold)",
    ),
    (
        "half of the vectors are not added",
        ROW,
        "for (int v = 0; v < stride; ++v) hinges[v] += hinges[v + stride];",
        "for (int v = 0; v < stride / 2; ++v) hinges[v] += hinges[v + stride];",
    ),
    (
        "the loss is not divided by C",
        ROW,
        "SumNotFinite<T>(batch, row)) / static_cast<double>(batch.classes)",
        "SumNotFinite<T>(batch, row)) / 1.0",
    ),
    ("NaN is dropped", ROW, "if (std::isnan(score)) return kNan;", ";"),
    ("inf - inf is infinite", ROW, "if ((high_target && high) || (low_target && low)) return kNan;", ";"),
    (
        "float32 overflows on the way",
        ROW,
        "return std::isfinite(sum) ? sum : SumInDouble(input, batch.classes, row);",
        "return sum;",
    ),
    ("the gradient loses the dout", ROW, "static_cast<double>(k) * scale)", "static_cast<double>(k))"),
    (
        "a target's gradient has the wrong sign",
        ROW,
        "total[row.targets[*j] % kBlock] -= active[*j];",
        "total[row.targets[*j] % kBlock] += active[*j];",
    ),
    (
        "a repeated class counts once",
        ROW,
        "total[row.targets[*j] % kBlock] -= active[*j];",
        "total[row.targets[*j] % kBlock] = -active[*j];",
    ),
    ("the totals are not reset", ROW, "total[row.targets[*j] % kBlock] = 0;", ";"),
    ("the counts of the ranks are not added up", ROW, "totals[k] += totals[k + 1];", ";"),
    ("a target counts its own rank", ROW, "totals[row.ranks[j] + 1]", "totals[row.ranks[j]]"),
    ("a NaN row keeps its gradient", ROW, "std::fill_n(output, batch.classes, FromDouble<T>(kNan));", ";"),
    ("rows without targets are not written", ROW, "std::memset(output + block * kBlock, 0, count * sizeof(T));", ";"),
    (
        "the last class of a block is not written",
        ROW,
        "StoreBlock(values, count, output",
        "StoreBlock(values, count - 1, output",
    ),
    ("the mean is a sum", MAIN, "reduction == Reduction::kMean && !losses.empty()", "false && !losses.empty()"),
    (
        "the mean of no rows is NaN",
        MAIN,
        "reduction == Reduction::kMean && !losses.empty()",
        "reduction == Reduction::kMean",
    ),
    (
        "the gradient of the mean is that of the sum",
        MAIN,
        "(reduction == Reduction::kMean ? static_cast<double>(batch.rows) : 1.0)",
        "1.0",
    ),
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
        "for (int64_t piece = 0; piece < pieces; ++piece) {\n      const PieceSum sum",
        "for (int64_t piece = 0; piece < pieces - (pieces > 1); ++piece) {\n      const PieceSum sum",
    ),
    ("float16 denormals are lost", SIMD, "(denormal & is_denormal) |", ""),
    ("float16 denormals are lost one by one", HALF, "(magnitude)) * 0x1p-24f;", "(magnitude)) * 0.0f;"),
    (
        "float16 is cut off instead of rounded",
        HALF,
        "const double places = (magnitude / unit + 0x1.8p52) - 0x1.8p52;",
        "const double places = static_cast<double>(static_cast<int>(magnitude / unit));",
    ),
    ("the sign of float16 is lost in vectors", SIMD, " | (bits & 0x8000) << 16", ""),
    ("the sign of float16 is lost", HALF, "return value.bits & 0x8000u ? -result : result;", "return result;"),
    ("an output's size is not checked", AOT, "if (overflows || elements != size) {", "if (overflows) {"),
    ("no label is let through", AOT, "if (batch.labels <= 0) {", "if (batch.labels < -1) {"),
    (
        "no class is let through",
        AOT,
        "if (batch.rows < 0 || batch.classes <= 0) {",
        "if (batch.rows < 0 || batch.classes < 0) {",
    ),
]


def compile_objects(sources, folder, level_of_rows):
    """Compiles the library's sources; row.cpp once for each of the levels. Returns the objects by name, or None."""
    jobs = {path.stem: [path, []] for path in sorted((sources / "cpu").glob("*.cpp")) if path.stem != "row"}
    for level in level_of_rows:
        jobs[f"row_{level}"] = [sources / "cpu" / "row.cpp", [f"-DMLML_LEVEL={level}", *LEVELS[level]]]
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
        originals = compile_objects(ROOT / "custom_ops", base, LEVELS)
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
