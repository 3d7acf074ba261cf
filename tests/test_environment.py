"""What surrounds the package: a checkout that was not built, folders with odd names, environment variables."""

import os
import shutil
import subprocess
import sys

import pytest

from mindspore_mlml import _backends
from mindspore_mlml._backends import PACKAGE

CALLS = """
import mindspore as ms
import numpy as np
from mindspore import Tensor
from mindspore_mlml import MultilabelMarginLoss, multilabel_margin_loss, targets_from_lists
input, target = Tensor(np.zeros((1, 4), np.float32)), Tensor(targets_from_lists([[0]], 4))
loss = multilabel_margin_loss
for call in (loss, MultilabelMarginLoss(), ms.grad(loss), ms.jit(loss)):
    try:
        print(call(input, target))
    except RuntimeError as error:
        print(str(error).splitlines()[0])
"""


def copy_of_package(folder, ignore=None):
    folder.mkdir(exist_ok=True)
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=ignore)
    return folder


def run_in(folder, env, *command):
    """Runs Python with the package that is in the folder, or else with the one that is tested."""
    env = {**env, "PYTHONPATH": os.pathsep.join([str(folder), str(PACKAGE.parent)])}
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def not_built(tmp_path):
    return copy_of_package(tmp_path / "checkout", shutil.ignore_patterns("*.so"))


@pytest.fixture
def with_colon(tmp_path):
    return copy_of_package(tmp_path / "a:b")


@pytest.fixture
def of_another_machine(not_built):
    (not_built / PACKAGE.name / "_cpu.so").write_bytes(b"not for this one")
    return not_built


RESULTS = ["0.75", "0.75", "[[-0.75", "0.75"]
# Where the CPU kernels cannot be used, and how a message says so.
UNUSABLE = {
    "not_built": "are not built, there is no {}: with a C++17 compiler, and without MLML_WITH_CPU=0, run `pip",
    "with_colon": "MindSpore cannot load a library whose path has a ':' in it, install mindspore_mlml elsewhere: {}",
    "of_another_machine": "cannot be loaded, install mindspore_mlml again on this machine: {}: ",
}


@pytest.mark.parametrize("place", ["not_built", "of_another_machine"])
def test_where_the_kernels_cannot_be_used_mindspores_own_operators_are(place, request, clean_environment):
    folder = request.getfixturevalue(place)
    message = UNUSABLE[place].format(folder / "mindspore_mlml" / "_cpu.so")
    result = run_in(folder, clean_environment, "-c", CALLS)
    assert [line.split()[0] for line in result.stdout.splitlines()] == RESULTS, result.stderr
    (warning,) = (line for line in result.stderr.splitlines() if "RuntimeWarning" in line)
    assert "composes the loss of MindSpore's own operators, which is slow" in warning
    assert message in warning
    smoke_test = run_in(folder, clean_environment, "-m", "mindspore_mlml")
    assert smoke_test.returncode == 0
    assert smoke_test.stdout.count("0.325\n") == 4
    lines = [line.split(maxsplit=3) for line in smoke_test.stdout.splitlines()]
    (reason,) = (line[3] for line in lines if line[:3] == ["CPU", "cpu", "no"])
    assert message in reason
    assert "In use here, with device target CPU: composed" in smoke_test.stdout


def test_where_mindspore_cannot_load_the_library_python_calls_it(with_colon, clean_environment):
    result = run_in(with_colon, clean_environment, "-c", CALLS)
    assert [line.split()[0] for line in result.stdout.splitlines()] == RESULTS
    assert result.stderr == ""
    smoke_test = run_in(with_colon, clean_environment, "-m", "mindspore_mlml")
    assert smoke_test.returncode == 0, smoke_test.stderr
    assert UNUSABLE["with_colon"].format(with_colon / "mindspore_mlml" / "_cpu.so") in smoke_test.stdout
    assert "In use here, with device target CPU: host\n" in smoke_test.stdout


def test_where_mindspores_own_operators_are_wanted_no_warning_is(not_built, clean_environment):
    result = run_in(not_built, {**clean_environment, "MLML_KERNEL": "composed"}, "-c", CALLS)
    assert [line.split()[0] for line in result.stdout.splitlines()] == RESULTS
    assert result.stderr == ""


@pytest.mark.parametrize("place", UNUSABLE)
def test_where_they_cannot_be_used_and_are_wanted_a_call_says_what_to_do(place, request, clean_environment):
    folder = request.getfixturevalue(place)
    message = UNUSABLE[place]
    wanted = {**clean_environment, "MLML_KERNEL": "cpu"}
    result = run_in(folder, wanted, "-c", CALLS)
    lines = result.stdout.splitlines()
    assert len(lines) == 4, result.stderr
    assert all(message.format(folder / "mindspore_mlml" / "_cpu.so") in line for line in lines)
    smoke_test = run_in(folder, wanted, "-m", "mindspore_mlml")
    assert smoke_test.returncode == 1
    (verdict,) = (line for line in smoke_test.stdout.splitlines() if line.startswith("None is in use here. "))
    assert message.format(folder / "mindspore_mlml" / "_cpu.so") in verdict


NOT_UTF8 = os.fsdecode(b"na\xefve")
# MindSpore itself compiles no graph while such a path is in sys.path.
IMPORTED_THEN_FORGOTTEN = f"""
import sys
import mindspore_mlml
from mindspore_mlml._backends import kernel_in_use
print(kernel_in_use())
sys.path.remove(sys.argv[1])
{CALLS}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such paths")
@pytest.mark.parametrize("kernels", ["host", "composed"])
def test_the_package_works_where_paths_are_not_utf8(kernels, tmp_path, clean_environment):
    folder = copy_of_package(tmp_path / NOT_UTF8, shutil.ignore_patterns("*.so") if kernels == "composed" else None)
    (tmp_path / "calls.py").write_text(IMPORTED_THEN_FORGOTTEN)
    result = run_in(folder, clean_environment, str(tmp_path / "calls.py"), str(folder))
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [kernels, *RESULTS], result.stderr
    assert ("RuntimeWarning" in result.stderr) == (kernels == "composed")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such paths")
def test_a_path_that_is_not_utf8_is_the_reason(tmp_path, clean_environment):
    folder = copy_of_package(tmp_path / NOT_UTF8)
    smoke_test = run_in(folder, clean_environment, "-m", "mindspore_mlml")
    assert "MindSpore cannot load a library whose path is not UTF-8" in smoke_test.stdout, smoke_test.stderr
    assert r"na\udcefve/mindspore_mlml/_cpu.so" in smoke_test.stdout
    assert "In use here, with device target CPU: host\n" in smoke_test.stdout
    result = run_in(folder, {**clean_environment, "MLML_KERNEL": "cpu"}, "-c", CALLS)
    assert "MLML_KERNEL=cpu, but it cannot be used. MindSpore cannot load a library whose path" in result.stdout


NO_EXEC = "this file system is mounted noexec, or SELinux forbids to run its files"


def test_a_library_that_cannot_be_mapped_is_no_reason_to_reinstall(monkeypatch):
    def refuse(path):
        raise OSError(f"{path}: failed to map segment from shared object: Operation not permitted")

    monkeypatch.setattr(_backends.ctypes, "CDLL", refuse)
    problem = _backends.problem_of("cpu")
    assert problem.startswith(f"The CPU kernels cannot be loaded, {NO_EXEC}; install mindspore_mlml elsewhere: ")
    assert "failed to map segment" in problem


def test_on_a_noexec_mount_the_warning_names_noexec(tmp_path, clean_environment):
    """In a mount namespace of the subprocess, which takes the mount with it."""
    mount = ["unshare", "--mount", "sh", "-ec", 'mount -t tmpfs -o noexec tmpfs . && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*mount, "true"], cwd=tmp_path, check=False).returncode != 0:
        pytest.skip("nothing can be mounted here")
    copy = f"import shutil; shutil.copytree({str(PACKAGE)!r}, {PACKAGE.name!r})"
    script = (
        f'cd "$PWD"; {sys.executable} -c "{copy}"; exec {sys.executable} -c "$CALLS"'  # "cd": into what was mounted
    )
    env = {**clean_environment, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PACKAGE.parent}", "CALLS": CALLS}
    command = [*mount, "sh", "-ec", script]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert [line.split()[0] for line in result.stdout.splitlines()] == RESULTS, result.stderr
    assert f"The CPU kernels cannot be loaded, {NO_EXEC}; install mindspore_mlml elsewhere: {tmp_path}" in result.stderr


def test_a_copy_of_the_package_in_another_place_works(tmp_path, clean_environment):
    result = run_in(copy_of_package(tmp_path / "with a space"), clean_environment, "-c", CALLS)
    assert [line.split()[0] for line in result.stdout.splitlines()] == RESULTS, result.stderr


def test_the_cpu_kernel_works_where_python_says_that_the_system_is_macos(tmp_path, clean_environment):
    """MindSpore, which is imported before, and the library are Linux's."""
    pretend = "import os, platform, mindspore; platform.system = lambda: 'Darwin'; del os.sched_getaffinity"
    ask = "from mindspore_mlml._backends import kernel_in_use; print(kernel_in_use())"
    result = run_in(tmp_path, clean_environment, "-c", f"{pretend}\n{CALLS}\n{ask}")
    assert [line.split()[0] for line in result.stdout.splitlines()] == [*RESULTS, "cpu"], result.stderr


# ----------------------------------------------------------------------------------------------------------------------
# The white list, as docs/mindspore.md and SECURITY.md describe it


@pytest.mark.parametrize("white_list", [PACKAGE, f"{PACKAGE}/", PACKAGE.parent])
def test_a_white_list_with_the_package_in_it_lets_it_work(white_list, tmp_path, clean_environment):
    result = run_in(tmp_path, {**clean_environment, "MS_CUSTOM_AOT_WHITE_LIST": str(white_list)}, "-c", CALLS)
    assert result.stdout.split()[:2] == ["0.75", "0.75"], result.stderr


@pytest.mark.parametrize("white_list", ["/usr", f"{PACKAGE}:/usr", ""])
def test_any_other_white_list_stops_the_import_with_both_paths(white_list, tmp_path, clean_environment):
    result = run_in(tmp_path, {**clean_environment, "MS_CUSTOM_AOT_WHITE_LIST": white_list}, "-c", CALLS)
    shown = white_list or tmp_path  # an empty one is the working directory
    message = f"the legal path for the file is {shown}, but the file is {PACKAGE / '_cpu.so'}"
    assert result.stderr.splitlines()[-1].startswith("TypeError: ")
    assert message in result.stderr


EXPORT = """
import mindspore as ms
import numpy as np
from mindspore import Tensor
from mindspore_mlml import MultilabelMarginLoss
input, target = Tensor(np.zeros((1, 4), np.float32)), Tensor(np.array([[0, -1, -1, -1]], np.int32))
ms.export(MultilabelMarginLoss(), input, target, file_name="net", file_format="MINDIR")
"""
LOAD = """
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
input, target = Tensor(np.zeros((1, 4), np.float32)), Tensor(np.array([[0, -1, -1, -1]], np.int32))
print(nn.GraphCell(ms.load("net.mindir"))(input, target))
"""


def test_the_white_list_holds_for_a_mindir_that_is_loaded_without_the_package(tmp_path, clean_environment):
    assert run_in(tmp_path, clean_environment, "-c", EXPORT).returncode == 0
    environment = {**clean_environment, "MS_CUSTOM_AOT_WHITE_LIST": str(PACKAGE)}
    assert run_in(tmp_path, environment, "-c", LOAD).stdout == "0.75\n"
    result = run_in(tmp_path, {**environment, "MS_CUSTOM_AOT_WHITE_LIST": "/usr"}, "-c", LOAD)
    assert result.returncode != 0
    assert "the file is not place in the legal path file defined by MS_CUSTOM_AOT_WHITE_LIST: /usr" in result.stderr
