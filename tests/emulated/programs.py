"""What runs in the emulated machine, built here: the matrix check, families of fused operators, and whole artifacts.

Each function takes a folder, builds there what it does not find, and returns jobs with the files that these need.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import pangu_compile
from pangu_compile.driver.toolchain import LEVELS, Level
from pangu_compile.models.random_checkpoint import SMALL, random_config, write_random_checkpoint
from tests.codegen.index.test_scan import SOURCES as SCAN
from tests.codegen.kernels.cases import cases
from tests.codegen.kernels.library import PLAIN, Library
from tests.codegen.linear.test_linear import compile_to

from .machine import Files, Job

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PYTHON = f"PYTHONPATH={ROOT} {sys.executable} -m tests.emulated.guest"
WEIGHTS = ("bf16", "int8", "int4", "f32", "w8a16", "w8a8")
SEED = 8  # dense and sparse attention, windows, convolutions, four streams, experts, and two heads for drafts
LOGITS = 1e-4  # of the largest: sums of 16 numbers at a time are not those of 8
Judge = Callable[[int, str], str]


@dataclass(frozen=True)
class Processor:
    """One of `bochs --help cpu`, and the name of the level that artifacts must choose on it."""

    name: str
    level: Level


PROCESSORS = tuple(
    Processor(cpu, next(level for level in LEVELS["x86-64-v3"] if level.name == name))
    for cpu, name in (("corei3_cnl", "x86-64-v4"), ("tigerlake", "x86-64-v4-vnni"))
)


def _output(*command: object) -> str:
    return subprocess.run([str(c) for c in command], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def with_libraries(files: Files) -> Files:
    """The files, and the shared libraries that the programs and libraries among them ask for."""
    found: Files = dict(files)
    for path in files.values():
        if isinstance(path, Path) and path.read_bytes()[:4] == b"\x7fELF":
            for word in subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout.split():
                if word.startswith("/"):  # by the name that was asked for, which may be a link
                    found[os.path.normpath(word)] = Path(word)
    return found


def silent(status: int, output: str) -> str:
    """Judges a program that prints what failed."""
    return "" if status == 0 else output[-3000:] or f"status {status}"


def linear(folder: Path, processor: Processor, quick: bool) -> tuple[list[Job], Files]:
    """The matrix kernels against float64 products, as the toolchain compiles them."""
    program = folder / f"check-{processor.level.name}"
    if not program.exists():
        compile_to(program, "g++", ["-O3", *processor.level.flags])
    return [Job("matrix kernels", f"{program}{' quick' if quick else ''}", silent)], {str(program): program}


def index(folder: Path, processor: Processor) -> tuple[list[Job], Files]:
    """The indexer's choice with codes of its keys, and without."""
    program = folder / f"scan-{processor.level.name}"
    if not program.exists():
        compile_to(program, "g++", ["-O3", *processor.level.flags], SCAN)
    return [Job("indexer scan", f"{program} quick", silent)], {str(program): program}


def families(folder: Path, processor: Processor, names: list[str]) -> tuple[list[Job], Files]:
    """Every fused operator against float64, on several thread counts, and token by token: tests/codegen/kernels, as it is."""
    files: Files = {line: Path(line) for line in _output(sys.executable, "-m", "tests.emulated.guest", "files").splitlines()}
    files[sys.executable] = Path(sys.executable)
    base = folder / f"families-{processor.level.name}"
    for name in names:
        if not (base / name / "model.so").exists():
            (base / name).mkdir(parents=True, exist_ok=True)
            Library(cases(name), base / name).compile((*PLAIN, *processor.level.flags))  # GCC 12 warns of its own immintrin.h
        files[str(base / name / "model.so")] = base / name / "model.so"
    return [Job("operators", f"{PYTHON} check {base} {' '.join(names)}", silent)], files  # one process: it takes a minute to begin


def _offset(library: Path, symbol: str) -> str:
    return next(line.split()[0] for line in _output("nm", library).splitlines() if line.split()[-1] == symbol)


def driver(folder: Path, compiler: str = "g++") -> Path:
    """The program that runs an artifact, compiled."""
    program = folder / f"artifact-{compiler}"
    includes = [f"-I{ROOT / 'runtime' / part}" for part in ("core", "include")]
    _output(compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", *includes, HERE / "artifact.cpp", "-o", program, "-ldl")
    return program


def run_command(program: Path, path: Path) -> str:
    """How it runs the artifact `path`."""
    library = path / "lib/libpangu_model.so"
    return f"{program} {path} {_offset(library, 'pangu_generated_model')} {_offset(library, 'pangu_levels')}"


def artifact_judge(want: str, level: str) -> Judge:
    """Same tokens as here, with and without speculation, by the level that the processor should have; logits alike."""

    def judge(status: int, output: str) -> str:
        if status != 0:
            return output[-1000:] + f"\nstatus {status}" + (" (ran another level than its best)" if status == 132 else "")
        here, there = ([line.split() for line in text.splitlines()] for text in (want, output))
        if there[0] != ["level", level]:
            return f"{' '.join(there[0])}, expected {level}"
        if there[1] != there[2] or there[1:3] != here[1:3]:
            return "\n".join(["other tokens:", *(" ".join(line) for line in (*here[1:3], *there[1:3]))])
        a, b = (np.array(lines[3][1:], float) for lines in (here, there))
        worst = float(np.abs(a - b).max() / np.abs(a).max())
        return "" if worst <= LOGITS else f"logits differ by {worst:.3g} of the largest, at most {LOGITS}"

    return judge


def artifacts(folder: Path, processor: Processor, formats: list[str]) -> tuple[list[Job], Files]:
    """A random checkpoint in several formats, each one artifact for AVX2 and what is above it."""
    program = driver(folder)
    files: Files = {str(program): program}
    checkpoint, jobs = folder / "checkpoint", []
    if not checkpoint.exists():
        write_random_checkpoint(checkpoint, random_config(SEED, SMALL), seed=SEED)
    for weights in formats:
        path = folder / f"{weights}.pangu"
        if not path.exists():
            pangu_compile.build(checkpoint, path, arch="x86-64-v3", weights=weights, max_context=64, opt_level=1)
        command = run_command(program, path)
        judge = artifact_judge(_output(*command.split()), processor.level.name)
        jobs.append(Job(f"artifact: {weights}", command, judge))
        files |= {str(f): f for f in path.rglob("*") if f.is_file()}
    return jobs, files


KINDS = {
    "linear": "the matrix kernels", "index": "the indexer's scan", "artifacts": "whole artifacts",
    "families": "the fused operators",
}  # fmt: skip
