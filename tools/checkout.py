"""The checkout without the package, so that tests take the one that is installed."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What the tests read besides themselves.
FOLDERS = ("tests", "custom_ops", "benchmarks", "examples", "docs", "tools")
FILES = ("pyproject.toml", "README.md")


def copy_without_package(to):
    """Copies what the tests need into a folder."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, Path(to, name), ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, to)
