"""Absorbed attention over pieces of keys, which threads share: pieces.cpp, sanitized too, and under an emulator."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.codegen.index.test_scan import passes
from tests.codegen.linear.test_linear import ARM, ROOT, VARIANTS, compile_to

SOURCES = [str(Path(__file__).parent / "pieces.cpp"), str(ROOT / "runtime/core/pool.cpp")]


@pytest.mark.parametrize("variant", VARIANTS)
def test_softmax_and_bits(variant: str, tmp_path: Path) -> None:
    compile_to(tmp_path / "pieces", "g++", VARIANTS[variant], SOURCES)
    passes([tmp_path / "pieces", *(["quick"] if variant == "sanitized" else [])])


def test_softmax_and_bits_on_arm(tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-g++") is None or shutil.which("qemu-aarch64") is None:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user")
    compile_to(tmp_path / "pieces", "aarch64-linux-gnu-g++", [*ARM["neon"], "-static"], SOURCES)
    passes(["qemu-aarch64", tmp_path / "pieces", "quick"])
