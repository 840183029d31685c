"""Artifacts that hold the model for several instruction sets."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import pangu_compile
from pangu_compile.driver.artifact import Artifact
from pangu_compile.driver.toolchain import LEVELS
from pangu_compile.models.random_checkpoint import random_config, write_random_checkpoint
from pangu_compile.runtime import Model

AVX512 = re.compile(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|\{%k[1-7]\}")
PROMPT = [1, 2, 3, 4, 5]


def built(folder: Path, arch: str, **options: object) -> Artifact:
    checkpoint = write_random_checkpoint(folder / "checkpoint", random_config(3), seed=3)
    return pangu_compile.build(checkpoint, folder / "m.pangu", arch=arch, weights="int8", max_context=64, opt_level=1, **options)


def output(*command: object) -> str:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(platform.machine() != "x86_64", reason="runs x86 code")
def test_one_library_for_avx2_and_avx512(tmp_path: Path) -> None:
    both, native = built(tmp_path / "both", "x86-64-v3"), built(tmp_path / "native", "native")
    levels = both.manifest["cpu"]["levels"]
    assert [level["name"] for level in levels] == ["x86-64-v4-vnni", "x86-64-v4"] and native.manifest["cpu"]["levels"] == []
    assert "avx512f" not in both.manifest["cpu"]["requires"] and "avx2" in both.manifest["cpu"]["requires"]
    tokens = []
    for artifact in (both, native):
        with Model(artifact.path, threads=1) as model, model.session() as session:
            tokens.append(session.generate(PROMPT, 30).tokens)
    assert tokens[0] == tokens[1] or any("avx512" in f for f in native.manifest["cpu"]["requires"])

    library = both.path / "lib/libpangu_model.so"
    code = output("objdump", "-d", "--no-show-raw-insn", "-C", library)
    functions = re.findall(r"^[0-9a-f]+ <(.+)>:\n((?:.+\n)*)", code, re.MULTILINE)
    needing = {name for name, body in functions if AVX512.search(body)}
    for level in LEVELS["x86-64-v3"]:
        assert any(f"pangu_{level.identifier}::" in name for name in needing)
    # Inline functions of which the linker keeps one copy for all files, and what runs when the library is loaded.
    shared = {line.split(maxsplit=2)[2] for line in output("nm", "-C", library).splitlines() if re.match(r"[0-9a-f]+ [WVu] ", line)}
    common = {name for name in needing if name in shared and "pangu_x86_64_v4" not in name}
    assert not common and not any("GLOBAL__sub" in name for name in needing)


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="needs g++-aarch64-linux-gnu")
def test_one_library_for_neon_with_and_without_dot_products(tmp_path: Path) -> None:
    artifact = built(tmp_path, "aarch64", compiler="aarch64-linux-gnu-g++")
    assert [level["name"] for level in artifact.manifest["cpu"]["levels"]] == ["armv8-2-a-dotprod"]
    code = output("aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", "-C", artifact.path / "lib/libpangu_model.so")
    functions = re.findall(r"^[0-9a-f]+ <(.+)>:\n((?:.+\n)*)", code, re.MULTILINE)
    needing = {name for name, body in functions if "\tsdot\t" in body}
    assert needing and all("pangu_armv8_2_a_dotprod::" in name or "anonymous" in name for name in needing)
