#!/usr/bin/env python3
"""Compiles the hybrid kernels for a GPU with the AKG of the installed MindSpore, on a machine without one.

usage: python -m tools.akg_ptx --out DIR --shapes 2x4 64x1000 16x30938

For each shape N x C of input and target, and for float16 and float32, writes NAME.ptx and NAME.json to DIR: for the
loss hinge_sums, for its gradient active_weights of the classes and of the targets. NAME.json describes the launch:
grid, block, the kernel's name, and dtype and shape of its parameters. Needs nvcc, gcc and `pip install '.[hybrid]'`.
"""

import argparse
import ast
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "mindspore_mlml" / "_hybrid_kernels.py"

# What mindspore_mlml/_hybrid.py gives each kernel: the dtypes of its inputs, None for the dtype of the scores.
KERNELS = {
    "hinge_sums": ("hinge_sums", (None, "float32")),
    "active_weights_of_classes": ("active_weights", (None, "float32", "float32")),
    "active_weights_of_targets": ("active_weights", ("float32", None, "float64")),
}

# AKG defines a function of this name, and so does CUDA 13.
RENAME = "#include <cuda_fp16.h>\n#define htanh akg_htanh\n"


def kernels(shapes):
    """Name, function, and dtype and shape of inputs and output of each kernel to compile."""
    for rows, classes in shapes:
        for dtype in ("float16", "float32"):
            for kernel, (function, inputs) in KERNELS.items():
                shapes_of_inputs = ([rows * classes], *[[rows, classes]] * (len(inputs) - 1))
                yield {
                    "name": f"{kernel}_{dtype}_{rows}x{classes}",
                    "function": function,
                    "inputs": [[of_input or dtype, shape] for of_input, shape in zip(inputs, shapes_of_inputs)],
                    "output": ["float64", [rows * classes]],
                }


def akg_request(kernel):
    """What MindSpore would ask AKG for."""
    source = SOURCE.read_text()
    functions = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    node = next(node for node in functions if node.name == kernel["function"])

    def tensor(description, name):
        dtype, shape = description
        return {"data_type": dtype, "format": "DefaultFormat", "shape": shape, "tensor_name": name, "name": name}

    inputs = [[tensor(description, f"input_{i}")] for i, description in enumerate(kernel["inputs"])]
    outputs = [tensor(kernel["output"], "output_0_0")]
    attributes = {
        "imply_path": str(SOURCE),
        "func_type": "hybrid",
        "func_compile_attrs": "{}",
        "func_name": kernel["function"],
        "func_source_str": ast.get_source_segment(source, node) + "\n",
        "uniq_name": f"Custom_{kernel['function']}",
    }
    attr = [{"data_type": "str", "name": name, "value": value} for name, value in attributes.items()]
    attr.append({"data_type": "bool", "name": "multi_output", "value": False})
    attr.append({"data_type": "int", "name": "inputs_num", "value": len(inputs)})
    operator = {"attr": attr, "impl_path": "", "name": "Custom", "input_desc": inputs, "output_desc": outputs}
    return {
        "composite": True,
        "composite_graph": "offline",
        "id": 0,
        "input_desc": inputs,
        "output_desc": outputs,
        "op": kernel["name"],
        "platform": "AKG",
        "process": "cuda",
        "version": 2,
        "target_info": {"compute_capability": "8.0", "sm_count": 108},
        "op_desc": [operator],
    }


def compile_kernels(akg):
    """Compiles the kernels on standard input into the working directory; folder ``akg`` has AKG's Python package."""
    os.environ["MS_COMPILER_CACHE_PATH"] = os.getcwd()
    sys.path.insert(0, akg)
    import akg.ms  # noqa: PLC0415

    for kernel in json.load(sys.stdin):
        if not akg.ms.compilewithjson(json.dumps(akg_request(kernel)), "{}"):
            sys.exit(f"AKG could not compile {kernel['name']}")


def run_akg(requested, folder):
    """Runs AKG in a process of its own, since it loads the first libakg.so on the library path."""
    spec = importlib.util.find_spec("mindspore")
    if spec is None:
        sys.exit("MindSpore, which AKG is a part of, is not installed.")
    root = Path(spec.origin).parent
    libraries = sorted(root.glob("lib/plugin/gpu*/libakg.so"))
    if not libraries:
        sys.exit(f"The MindSpore in {root} has no AKG for GPUs.")
    rename = Path(folder, "rename.h")
    rename.write_text(RENAME)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{libraries[-1].parent}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "NVCC_PREPEND_FLAGS": f"{os.environ.get('NVCC_PREPEND_FLAGS', '')} -include {rename}",
    }
    result = subprocess.run(
        [sys.executable, __file__, "--akg", str(root / "_akg")],
        input=json.dumps(requested),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        sys.exit(result.stdout)


def write_ptx(shapes, out):
    """Compiles all kernels and writes them to ``out``. Returns the launch descriptions by name."""
    requested = list(kernels(shapes))
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    launches = {}
    with tempfile.TemporaryDirectory() as folder:
        run_akg(requested, folder)
        for kernel in requested:
            compiled = Path(folder, "akg_kernel_meta", kernel["name"])
            launch = json.loads(compiled.with_suffix(".json").read_text())
            launches[kernel["name"]] = {
                **kernel,
                "kernel": launch["kernelName"],
                "grid": [launch[f"blockIdx.{axis}"] for axis in "xyz"],
                "block": [launch[f"threadIdx.{axis}"] for axis in "xyz"],
            }
            Path(out, kernel["name"] + ".ptx").write_text(compiled.with_suffix(".ptx").read_text())
            Path(out, kernel["name"] + ".json").write_text(json.dumps(launches[kernel["name"]], indent=1) + "\n")
    return launches


def share_of_writers(launch, ptx):
    """How many of the launched threads write an output, at least, as a part of all: a thread executes each store to
    global memory at most once, unless it is in a loop; then nothing is known, and the share is 0."""
    lines = ptx.splitlines()
    labels = {line[:-1]: number for number, line in enumerate(lines) if line.endswith(":")}
    loops = []
    for number, line in enumerate(lines):
        branch = re.search(r"\bbra(?:\.uni)?\s+(\S+);", line)
        if branch and labels[branch[1]] < number:
            loops.append(range(labels[branch[1]], number))
    numbers_of_outputs = 0
    for number, line in enumerate(lines):
        if store := re.search(r"\bst\.global(?:\.v(\d))?", line):
            if any(number in loop for loop in loops):
                return 0
            numbers_of_outputs += int(store[1] or 1)
    return math.prod(launch["output"][1]) / numbers_of_outputs / math.prod(launch["grid"] + launch["block"])


def shape(text):
    """Parses 64x1000."""
    try:
        rows, classes = map(int, text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"a shape looks like 64x1000, but got {text!r}") from None
    if rows < 1 or classes < 1:
        raise argparse.ArgumentTypeError(f"a shape has at least one row and one class, but got {text!r}")
    return rows, classes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="DIR")
    parser.add_argument("--shapes", nargs="+", type=shape, metavar="NxC", default=[(2, 4), (64, 1000), (16, 30938)])
    parser.add_argument("--akg", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.akg:
        compile_kernels(arguments.akg)
        return
    if not arguments.out:
        parser.error("--out is required")
    for name, launch in write_ptx(arguments.shapes, arguments.out).items():
        share = share_of_writers(launch, Path(arguments.out, f"{name}.ptx").read_text())
        print(f"{name}: grid {launch['grid']}, block {launch['block']}, of which at least {share:.1%} write an output")


if __name__ == "__main__":
    main()
