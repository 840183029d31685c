"""The bookkeeping of who touched which bytes agrees with a model that keeps everything."""

from __future__ import annotations

import pathlib
import subprocess

from simulated import FLAGS, SIMULATOR


def test_shadow_memory_against_a_model(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "shadow_test"
    sources = [str(pathlib.Path(__file__).parent / "shadow_test.cpp"), str(SIMULATOR / "src" / "memory.cpp")]
    subprocess.run(["g++", *FLAGS, "-O2", "-o", str(program), *sources], check=True)
    result = subprocess.run([str(program)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout
