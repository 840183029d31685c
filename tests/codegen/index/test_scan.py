"""The indexer's choice with codes of its keys: scan.cpp under every instruction set of this machine, and under an emulator.

AVX-512 is compiled here and run by tests/emulated.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.codegen.linear.test_linear import ARM, ROOT, VARIANTS, compile_to

SOURCES = [str(Path(__file__).parent / "scan.cpp"), str(ROOT / "runtime/core/pool.cpp")]


def passes(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0 failures\n"), done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "portable_with_fma"])
def test_same_rows(variant: str, tmp_path: Path) -> None:
    compile_to(tmp_path / "scan", "g++", VARIANTS[variant], SOURCES)
    passes([tmp_path / "scan", *(["quick"] if variant == "sanitized" else [])])


@pytest.mark.parametrize("variant", ARM)
def test_same_rows_on_arm(variant: str, tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-g++") is None or shutil.which("qemu-aarch64") is None:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user")
    compile_to(tmp_path / "scan", "aarch64-linux-gnu-g++", [*ARM[variant], "-static"], SOURCES)
    passes(["qemu-aarch64", tmp_path / "scan", "quick"])


@pytest.mark.parametrize("arch", ["x86-64-v4", "icelake-server"])  # without and with VNNI
def test_avx512_compiles(arch: str, tmp_path: Path) -> None:
    if subprocess.run(["g++", "-dumpmachine"], capture_output=True, text=True, check=True).stdout.split("-")[0] != "x86_64":
        pytest.skip("a compiler for x86-64")
    compile_to(tmp_path / "scan", "g++", ["-O1", f"-march={arch}"], SOURCES)
    text = subprocess.run(["objdump", "-d", tmp_path / "scan"], capture_output=True, text=True, check=True).stdout
    assert ("vpdpwssd" in text) == (arch == "icelake-server") and "%zmm" in text
