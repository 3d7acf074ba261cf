#!/usr/bin/env python3
"""Builds the wheels for all platforms, and the source distribution that they are built from, on Linux on x86-64.

usage: python tools/build_wheels.py --out dist [--only win-amd64] [--work build/wheels]

needs, as root:  apt-get install mmdebstrap && pip install '.[release]'

The two for Linux are compiled in a Debian 11, whose libraries are older than those that MindSpore needs; those for
macOS and Windows by Zig, which has the headers of both. None has the CUDA kernels: they are built where nvcc is.
Checks the wheels, as `python -m tools.check_wheels` does, and exits non-zero if something is wrong with one.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for who runs this file by its path

from tools import check_wheels  # noqa: E402

DEBIAN = "bullseye"
PACKAGES = "coreutils,g++,g++-aarch64-linux-gnu"
SOURCES = "mindspore_mlml"  # the folder in Debian's root where the sources are

ZIG = f"{sys.executable} -m ziglang c++ -g0"
TBD = """--- !tapi-tbd
tbd-version: 4
targets: [ arm64-macos ]
install-name: '/usr/lib/libc++.1.dylib'
exports:
  - targets: [ arm64-macos ]
    symbols: [ {} ]
...
"""


def make_debian(work):
    """The root of a Debian with compilers: nothing runs in it but they, so its packages need not be configured."""
    root = work / DEBIAN
    if not (root / "usr" / "bin" / "g++").exists():
        shutil.rmtree(root, ignore_errors=True)
        command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={PACKAGES}", DEBIAN, root]
        subprocess.run(command, check=True)
    return root


def describe_libcxx(work):
    """A description of the C++ library of macOS for the linker, in a file. Zig's own must not be linked, or exceptions
    would not be those that MindSpore catches. What MindSpore's libraries use of it is all that ours may use."""
    needs = check_wheels.needs_of_mindspore("macosx-11.0-arm64", work)
    symbols = sorted(symbol for library, symbol in needs if library.endswith("/libc++.1.dylib"))
    to = work / "libc++.tbd"
    to.write_text(TBD.format(", ".join(f"'{symbol}'" for symbol in symbols)))
    return to


def flags_for(platform, work):
    """CXX, and what else setup.py takes from the environment."""
    if platform.startswith("linux"):
        prefix = "aarch64-linux-gnu-" if platform.endswith("aarch64") else ""
        return {"CXX": f"chroot {work / DEBIAN} env -C /{SOURCES} {prefix}g++"}
    if platform.startswith("win"):
        return {"CXX": f"{ZIG} -target x86_64-windows-gnu", "LDFLAGS": "-s"}
    # MindSpore's libraries do not ask the system to free memory by its size, so ours must not either.
    return {
        "CXX": f"{ZIG} -target aarch64-macos.11.0",
        "CXXFLAGS": "-fno-sized-deallocation",
        "LDFLAGS": f"-nostdlib++ {describe_libcxx(work)} -Wl,-install_name,@rpath/_cpu.so",
    }


def build(kind, source, out, environment):
    """Builds a source distribution or a wheel; returns its path."""
    variables = {name: value for name, value in os.environ.items() if name not in ("CXX", "CXXFLAGS", "LDFLAGS")}
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", out, source]
    result = subprocess.run(
        command,
        env={**variables, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        sys.exit(result.stdout)
    (built,) = out.iterdir()
    return built


def unpack_sources(archive, work):
    """Unpacks the sources where the compilers in Debian's root see them, too; returns the folder."""
    to = work / DEBIAN / SOURCES
    shutil.rmtree(to, ignore_errors=True)
    with tarfile.open(archive) as sources:
        (top,) = {member.name.split("/")[0] for member in sources}
        sources.extractall(work / DEBIAN)
    return (work / DEBIAN / top).rename(to)


def name_manylinux(wheel):
    """Gives a wheel for Linux the name of the oldest systems that it runs on, as auditwheel finds them."""
    shown = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", wheel], capture_output=True, text=True, check=True
    ).stdout
    tag = re.search(r'platform\s+tag:\s+"(manylinux_\w+)"', shown).group(1)
    command = [sys.executable, "-m", "wheel", "tags", "--remove", f"--platform-tag={tag}", wheel]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (named,) = wheel.parent.iterdir()
    return named


def build_wheel(platform, source, work):
    """The path of the wheel for a platform."""
    environment = {"_PYTHON_HOST_PLATFORM": platform, "MLML_WITH_CPU": "1", "MLML_WITH_CUDA": "0"}
    shutil.rmtree(source / "build", ignore_errors=True)
    for library in source.glob("mindspore_mlml/_cpu.*"):
        library.unlink()
    wheel = build("wheel", source, work / "built", {**environment, **flags_for(platform, work)})
    return name_manylinux(wheel) if platform.startswith("linux") else wheel


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder for the wheels")
    parser.add_argument("--only", choices=check_wheels.PLATFORMS, action="append", help="build for this platform")
    parser.add_argument(
        "--work", type=Path, default=check_wheels.WORK, help="the folder with what is kept for next time"
    )
    arguments = parser.parse_args()
    out, work = arguments.out.resolve(), arguments.work.resolve()
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    make_debian(work)
    archive = build("sdist", ROOT, work / "built", {"MLML_WITH_CUDA": "0"})
    built = [Path(shutil.move(archive, out / archive.name))]
    source = unpack_sources(built[0], work)
    for platform in arguments.only or check_wheels.PLATFORMS:
        wheel = build_wheel(platform, source, work)
        built.append(Path(shutil.move(wheel, out / wheel.name)))
        print(f"built {built[-1]}", flush=True)
    return 0 if check_wheels.check_all(built[1:], work) else 1


if __name__ == "__main__":
    sys.exit(main())
