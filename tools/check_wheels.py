#!/usr/bin/env python3
"""Checks wheels before they are published: that each is small, is clean for the package index, and that its library
needs nothing of the system that MindSpore's own libraries for that platform do not need.

usage: python -m tools.check_wheels WHEEL... [--work build/wheels]

Downloads MindSpore's wheels, 1.4 GB for all four platforms, and keeps them. Prints a line for each wheel, and exits
non-zero if something is wrong with one.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import lief

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "wheels"
MINDSPORE = "2.10.0"
PYTHON = "3.11"

# What sysconfig.get_platform() says there -> what pip calls it, the first for which MindSpore has wheels
PLATFORMS = {
    "linux-x86_64": "manylinux1_x86_64",
    "linux-aarch64": "manylinux2014_aarch64",
    "macosx-11.0-arm64": "macosx_11_0_arm64",
    "win-amd64": "win_amd64",
}
LARGEST = 1_000_000  # bytes
# MindSpore's libraries that are always loaded. Its plugins, which may need more, are elsewhere or have other names.
LIBRARIES = re.compile(r"mindspore/(lib/)?(lib)?(mindspore_|_c_expression)[^/]*\.(so|dylib|dll|pyd)[^/]*")
# In macOS since 10.4, and nothing that MindSpore happens to use.
OF_MACOS = {("/usr/lib/libSystem.B.dylib", "_pthread_atfork")}
# The system, and the C library that is a part of it since Windows 10: a runtime of its own, the library has inside.
OF_WINDOWS = re.compile(r"kernel32\.dll|api-ms-win-crt-[a-z]+-l1-1-0\.dll")


def fetch_mindspore(platform, work):
    """The path of MindSpore's wheel for a platform, downloaded unless it is there."""
    folder = Path(work, "mindspore", platform)
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
        command += [f"--python-version={PYTHON}", f"--platform={PLATFORMS[platform]}", f"--dest={folder}"]
        subprocess.run([*command, f"mindspore=={MINDSPORE}"], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def needs(library):
    """What a library needs of others, as pairs: on Linux (library, version of its symbols), else (library, symbol)."""
    lief.logging.disable()
    binary = lief.parse(str(library))
    if isinstance(binary, lief.ELF.Binary):
        required = binary.symbols_version_requirement
        return {(item.name, version.name) for item in required for version in item.get_auxiliary_symbols()}
    if isinstance(binary, lief.PE.Binary):
        return {(item.name.lower(), entry.name) for item in binary.imports for entry in item.entries}
    # The number of a library counts those that are to be loaded, from 1 on; some numbers have a special meaning.
    loaded = [item.name for item in binary.libraries if item.command != lief.MachO.LoadCommand.TYPE.ID_DYLIB]
    undefined = [item for item in binary.symbols if item.category == lief.MachO.Symbol.CATEGORY.UNDEFINED]
    return {
        (loaded[item.library_ordinal - 1], item.name) for item in undefined if 0 < item.library_ordinal <= len(loaded)
    }


def needs_of_mindspore(platform, work):
    """What MindSpore's libraries for a platform need."""
    found = set()
    with zipfile.ZipFile(fetch_mindspore(platform, work)) as wheel, tempfile.TemporaryDirectory() as folder:
        for name in filter(LIBRARIES.fullmatch, wheel.namelist()):
            found |= needs(wheel.extract(name, folder))
    return found


def newer(ours, mindspores):
    """Of the versions that we need, those that are newer than all of that name that MindSpore needs."""

    def split(version):
        name, _, number = version.rpartition("_")
        return name, tuple(map(int, number.split(".")))

    newest = {}
    for name, number in sorted(split(version) for _, version in mindspores if re.search(r"_[\d.]+$", version)):
        newest[name] = number
    return {(of, version) for of, version in ours if newest.get(split(version)[0], ()) < split(version)[1]}


def excess(platform, ours, mindspores):
    """What is needed, and not given where MindSpore runs."""
    if platform.startswith("linux"):
        return newer(ours, mindspores)
    if platform.startswith("macosx"):
        return ours - mindspores - OF_MACOS
    return {need for need in ours if not OF_WINDOWS.fullmatch(need[0])}


def is_signed(library):
    """Whether a library for macOS is signed, without which an Apple processor does not run it."""
    return lief.parse(str(library)).has_code_signature


def platform_of(wheel):
    """The platform that a wheel is for, of PLATFORMS."""
    tag = wheel.stem.rpartition("-")[2]
    (platform,) = (name for name in PLATFORMS if re.fullmatch(rf"(many)?{re.sub('[-.]', '.*_', name)}", tag))
    return platform


def check(wheel, work):
    """What is wrong with a wheel, and what is worth knowing, as lists of lines."""
    platform = platform_of(wheel)
    wrong, notes = [], [f"{wheel.stat().st_size / 1000:.0f} kB"]
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        binaries = [
            name for name in archive.namelist() if not name.endswith((".py", ".typed")) and "-info/" not in name
        ]
        cpu, *others = sorted(binaries)
        if any(not name.startswith("mindspore_mlml/_cuda.") for name in others):
            wrong.append(f"has other files besides: {', '.join(others)}")
        if not others and wheel.stat().st_size > LARGEST:
            wrong.append("is larger than a megabyte")
        library = archive.extract(cpu, folder)
        ours = needs(library)
        for of, name in sorted(excess(platform, ours, needs_of_mindspore(platform, work))):
            wrong.append(f"needs {name} of {of}, which MindSpore {MINDSPORE} does not need there")
        if platform.startswith("macosx") and not is_signed(library):
            wrong.append("has a library that is not signed")
    notes.append(f"needs {len(ours)} symbols or versions of {', '.join(sorted({Path(of).name for of, _ in ours}))}")
    return wrong, notes


def check_all(wheels, work):
    """Whether all is well."""
    good = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *wheels], check=False).returncode == 0
    for wheel in wheels:
        wrong, notes = check(wheel, work)
        print(f"{wheel.name}: {'; '.join(notes)}")
        for line in wrong:
            print(f"    WRONG: it {line}")
        good = good and not wrong
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, nargs="+", metavar="WHEEL")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder with what is downloaded")
    arguments = parser.parse_args()
    return 0 if check_all(arguments.wheels, arguments.work) else 1


if __name__ == "__main__":
    sys.exit(main())
