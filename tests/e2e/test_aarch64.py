"""Whole artifacts on aarch64, with dot product instructions and without, emulated by qemu: the tokens are this machine's."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

import pangu_compile
from pangu_compile.models.random_checkpoint import SMALL, random_config, write_random_checkpoint
from tests.emulated.programs import SEED, WEIGHTS, artifact_judge, driver, run_command

COMPILER, EMULATOR, ROOT = "aarch64-linux-gnu-g++", "qemu-aarch64", "/usr/aarch64-linux-gnu"
PROCESSORS = {"max": "armv8-2-a-dotprod", "cortex-a57": "least"}

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="compares with x86"),
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"needs {COMPILER}"),
    pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"needs {EMULATOR}"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("aarch64")
    write_random_checkpoint(path / "checkpoint", random_config(SEED, SMALL), seed=SEED)
    return path


@pytest.fixture(scope="module")
def drivers(folder: Path) -> tuple[Path, Path]:
    """What runs an artifact, for this machine and for aarch64."""
    return driver(folder), driver(folder, COMPILER)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_an_aarch64_artifact_gives_the_same_tokens(folder: Path, drivers: tuple[Path, Path], weights: str) -> None:
    options = {"weights": weights, "max_context": 64, "opt_level": 1}
    here, there = folder / f"{weights}-x86.pangu", folder / f"{weights}-arm.pangu"
    pangu_compile.build(folder / "checkpoint", here, arch="x86-64-v3", **options)
    pangu_compile.build(folder / "checkpoint", there, arch="aarch64", compiler=COMPILER, **options)
    want = subprocess.run(run_command(drivers[0], here).split(), capture_output=True, text=True, check=True).stdout
    command = run_command(drivers[1], there).split()
    for processor, level in PROCESSORS.items():
        emulated = [EMULATOR, "-L", ROOT, "-cpu", processor, *command]
        done = subprocess.run(emulated, capture_output=True, text=True, check=False)
        assert artifact_judge(want, level)(done.returncode, done.stdout) == "", (processor, done.stderr)
