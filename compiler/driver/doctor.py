"""What a machine has for compiling and running, found without changing anything."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from pangu_compile.errors import PanguError

from .artifact import Artifact
from .options import make_options
from .toolchain import arch_flags, cpu_features, find_compiler, required_features

OK, NOTE, BAD = "ok", "note", "bad"
COMPILE_PACKAGES = ("torch", "sympy", "networkx", "jinja2")
RUN_PACKAGES = ("numpy",)
TEXT_PACKAGES = ("tokenizers",)
LOW_DISK = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the report. state: ok, note (something optional is missing) or bad."""

    name: str
    state: str
    detail: str


def _package(name: str, state: str, purpose: str) -> Finding:
    try:
        return Finding(name, OK, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, state, f"not installed; needed {purpose} (pip install 'pangu-compile[compile]')")


def _compiler() -> list[Finding]:
    try:
        options = make_options()
        tools = find_compiler(options.compiler)
        flags = arch_flags(tools, options.arch)
    except PanguError as error:
        return [Finding("C++ compiler", BAD, str(error))]
    features = required_features(tools, flags)
    return [
        Finding("C++ compiler", OK, f"{' '.join(tools.command)} for {tools.machine}"),
        Finding("arch native", OK, f"{' '.join(flags)}: {' '.join(features) or 'baseline'}"),
    ]


def _cpu() -> Finding:
    present = cpu_features()
    if present is None:
        return Finding("CPU", NOTE, f"{platform.machine()}, {os.cpu_count()} cores; /proc/cpuinfo cannot be read")
    fast = [name for name in ("avx2", "fma", "avx512f", "avx512_vnni", "asimd", "sve") if name in present]
    extensions = " ".join(fast) or "no vector extensions"
    return Finding("CPU", OK, f"{platform.machine()}, {os.cpu_count()} cores: {extensions}")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free in {folder}"
    return Finding("disk", OK if free > LOW_DISK else NOTE, text)


def missing_features(artifact: Artifact) -> list[str]:
    """Instruction sets that the artifact's library was built with and this CPU lacks."""
    cpu = artifact.manifest.get("cpu", {})
    if cpu.get("machine") != platform.machine():
        return [str(cpu.get("machine"))]
    present = cpu_features()
    return [] if present is None else [name for name in cpu.get("requires", []) if name not in present]


def _artifact(path: Path) -> Finding:
    try:
        artifact = Artifact.open(path)
    except PanguError as error:
        return Finding(str(path), BAD, str(error))
    missing = missing_features(artifact) if "cpu" in artifact.manifest else []  # an NPU's says nothing of this machine
    if missing:
        return Finding(str(path), BAD, f"built for a CPU with {' '.join(missing)}, which this machine lacks")
    return Finding(str(path), OK, f"{len(artifact.manifest['files'])} files, all sums right")


def examine(artifacts: tuple[Path, ...] = ()) -> list[Finding]:
    """All findings; a `bad` one means that building or running will fail."""
    version = platform.python_version()
    findings = [Finding("Python", OK if sys.version_info >= (3, 10) else BAD, version)]
    findings += [_package(name, BAD, "to run") for name in RUN_PACKAGES]
    findings += [_package(name, BAD, "to build") for name in COMPILE_PACKAGES]
    findings += [_package(name, NOTE, "for text prompts") for name in TEXT_PACKAGES]
    findings += _compiler()
    findings += [_cpu(), _disk(Path.cwd())]
    return findings + [_artifact(path) for path in artifacts]
