"""Python threads that call what is public at the same time. Each runs in a process of its own, since a fault would be a
crash or a deadlock."""

import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, run_program


@pytest.mark.parametrize("runs", [1, pytest.param(7, marks=pytest.mark.slow)])
def test_threads_get_their_own_results(runs):
    script = ROOT / "tests" / "support" / "threads.py"
    for _ in range(runs):
        result = run_program(sys.executable, script, cwd=Path.cwd(), timeout=200, PYTHONPATH=str(ROOT))
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.endswith("all threads had their own results\n")
