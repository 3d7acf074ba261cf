"""Running Python and programs in processes of their own."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def run_program(*command, cwd=None, timeout=600, **environment):
    """The finished process, with what it printed."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=timeout, check=False)


def run_script(script, cwd, **environment):
    """The finished process of a Python script, which sees what is installed, and nothing of the checkout."""
    return run_program(sys.executable, "-c", textwrap.dedent(script), cwd=cwd, **environment)


def run_python(*command, **environment):
    """Runs Python with the checkout's modules in reach; returns what it printed."""
    result = run_program(sys.executable, *command, PYTHONPATH=str(ROOT), **environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def free_port():
    """A port of this machine that the system has given to nobody."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
