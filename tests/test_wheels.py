"""What tools.check_wheels finds in wheels."""

from pathlib import Path

import pytest

from mindspore_mlml._backends import LIBRARIES
from tools.check_wheels import excess, needs, platform_of


@pytest.mark.parametrize(
    ("tag", "platform"),
    [
        ("manylinux_2_27_x86_64", "linux-x86_64"),
        ("linux_x86_64", "linux-x86_64"),
        ("manylinux_2_26_aarch64", "linux-aarch64"),
        ("macosx_11_0_arm64", "macosx-11.0-arm64"),
        ("win_amd64", "win-amd64"),
    ],
)
def test_the_name_of_a_wheel_says_its_platform(tag, platform):
    assert platform_of(Path(f"mindspore_mlml-0.2.0-py3-none-{tag}.whl")) == platform


def test_what_the_library_needs_is_found():
    found = needs(LIBRARIES["cpu"])
    assert ("libstdc++.so.6", "GLIBCXX_3.4") in found
    assert all(name.split("_")[0] in ("GLIBC", "GLIBCXX", "CXXABI", "GCC") for _, name in found)


def test_on_linux_a_version_is_too_much_if_mindspore_needs_only_older_ones():
    mindspores = {("libc.so.6", "GLIBC_2.17"), ("libm.so.6", "GLIBC_2.4"), ("libgomp.so.1", "OMP_1.0")}
    ours = {("libc.so.6", "GLIBC_2.9"), ("libm.so.6", "GLIBC_2.17"), ("libc.so.6", "GLIBC_2.34")}
    assert excess("linux-aarch64", ours, mindspores) == {("libc.so.6", "GLIBC_2.34")}
    of_another_name = {("libstdc++.so.6", "GLIBCXX_3.4")}
    assert excess("linux-x86_64", of_another_name, mindspores) == of_another_name


def test_on_macos_a_symbol_is_too_much_if_mindspore_does_not_need_it():
    both, ours = ("/usr/lib/libc++.1.dylib", "__Znwm"), ("/usr/lib/libc++.1.dylib", "__ZdlPvm")
    assert excess("macosx-11.0-arm64", {both, ours}, {both}) == {ours}


def test_on_windows_a_runtime_library_is_too_much():
    system = {("kernel32.dll", "Sleep"), ("api-ms-win-crt-heap-l1-1-0.dll", "malloc")}
    runtime = ("msvcp140.dll", "??0_Lockit@std@@QEAA@H@Z")
    assert excess("win-amd64", {*system, runtime}, set()) == {runtime}
