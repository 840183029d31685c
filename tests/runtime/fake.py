"""Builds artifacts around fake_model.cpp, with the flags of real ones."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pangu_compile.runtime as runtime

HERE = Path(__file__).parent
RUNTIME = Path(next(iter(runtime.__path__)))
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-pthread", "-Wall", "-Wextra", "-Werror")


def sources() -> list[Path]:
    """The runtime core and the fake model."""
    return [*sorted((RUNTIME / "core").glob("*.cpp")), HERE / "fake_model.cpp"]


@functools.cache
def core(compiler: str) -> tuple[tempfile.TemporaryDirectory[str], list[str]]:
    """Objects of the runtime core, compiled once per process."""
    scratch = tempfile.TemporaryDirectory(prefix="pangu-test-core-")
    names = [str(p) for p in sources()[:-1]]
    subprocess.run([compiler, *FLAGS, "-c", *names], cwd=scratch.name, check=True)
    return scratch, [str(p) for p in sorted(Path(scratch.name).glob("*.o"))]


def library(path: Path, compiler: str = "g++", **macros: int) -> Path:
    """The core and the fake model as one shared library."""
    defines = [f"-DFAKE_{name.upper()}={value}" for name, value in macros.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [compiler, *FLAGS, *defines, "-I", str(RUNTIME / "core"), str(HERE / "fake_model.cpp"), *core(compiler)[1],
         "-shared", "-Wl,--no-undefined", "-Wl,-soname,libpangu_model.so", "-o", str(path)], check=True,
    )  # fmt: skip
    return path


def seal(folder: Path) -> None:
    """Write SHA256SUMS over everything else in the folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}\n" for p in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


def artifact(folder: Path, built: Path, agree: int) -> Path:
    """An artifact whose heads repeat the trunk's guess in `agree` percent of the positions."""
    (folder / "lib").mkdir(parents=True)
    shutil.copy(built, folder / "lib/libpangu_model.so")
    (folder / "manifest.json").write_text(json.dumps({"format_version": 1, "role": "lm"}))
    (folder / "weights.safetensors").write_bytes(bytes(4096) + struct.pack("<q", agree))
    seal(folder)
    return folder
