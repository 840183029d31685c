"""Runs Ascend artifacts: on the simulator, built from the artifact's own sources, or with a library that CANN built."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pangu_compile.errors import CompileError, UserError
from pangu_compile.runtime import Model

from ..artifact import LIBRARY, MANIFEST, PIECES, SUMS, WEIGHTS, Artifact, list_files, sha256_file
from ..objects import compiler_identity
from ..options import cache_folder, make_options
from ..toolchain import Toolchain, find_compiler

BUILT = "libpangu_model.so"
# Kernels are compiled in one unit, quickly: what they take is the simulator's time, not the generated code's.
COMMON = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-w", "-pthread")
LINK = ("-shared", "-fPIC", "-pthread", "-Wl,-Bsymbolic", "-Wl,--no-undefined")
LEVELS = {"kernels": "-Og", "host": "-O1", "core": "-O1", "simulator": "-O2"}
NOTE = "simulated: the kernels and the vendor's operators ran on the simulator of an Ascend chip, not on a device"


class AscendModel(Model):
    """An Ascend artifact with the library that was built for it. `simulated`: on the simulator."""

    def __init__(self, artifact: Artifact, library: Path, threads: int | None, simulated: bool):
        self.simulated, self.simulated_note = simulated, NOTE
        with _with_library(artifact, library) as folder:
            super().__init__(folder, threads)  # maps and copies what it needs
        self.path = artifact.path


def open_ascend(artifact: Artifact, threads: int | None, simulate: bool) -> AscendModel:
    """The model of an Ascend artifact.

    Raises:
        UserError: not asked to simulate, and no library that CANN has built lies beside the artifact.
        CompileError: the sources do not build against the simulator.
    """
    artifact.check()
    if simulate:
        return AscendModel(artifact, simulated_library(artifact), threads, True)
    built = device_library(artifact.path)
    if not built.is_file():
        raise UserError(
            f"{artifact.path} was built for {artifact.manifest.get('target')} and {built} is not there: run it with --simulate, or"
            f" build it on a machine with CANN ({artifact.path / 'README.md'} has the two commands)"
        )
    return AscendModel(artifact, built, threads, False)


def device_library(artifact: Path) -> Path:
    """Where the README's first command puts the library of NAME.pangu: NAME-build beside it."""
    return artifact.parent / f"{artifact.stem}-build" / BUILT


@contextlib.contextmanager
def _with_library(artifact: Artifact, library: Path) -> Iterator[Path]:
    """A folder like the artifact with that library in it, its checksum among the others."""
    with tempfile.TemporaryDirectory(prefix="pangu-run-") as scratch:
        folder = Path(scratch)
        (folder / "lib").mkdir()
        files = {LIBRARY: library, **{name: artifact.path / name for name in (MANIFEST, WEIGHTS, PIECES)}}
        for name, file in files.items():
            (folder / name).symlink_to(file.resolve())
        recorded = artifact.manifest["files"]  # checked when the artifact was opened: weights are not read once more
        sums = [f"{recorded.get(name) or sha256_file(file)}  {name}\n" for name, file in files.items()]
        (folder / SUMS).write_text("".join(sums), encoding="utf-8")
        yield folder


# The simulated library.


def simulator_folder() -> Path:
    import pangu_compile.codegen.ascend as ascend

    return Path(next(iter(ascend.__path__))) / "simulator"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _files_digest(root: Path) -> str:
    return _digest(*(f"{name} {sha256_file(root / name)}" for name in list_files(root)))


def simulated_library(artifact: Artifact) -> Path:
    """The artifact's sources built with g++ against the simulator; kept in the user's cache, by what went in."""
    tools = find_compiler(make_options().compiler)
    simulator, source = simulator_folder(), artifact.path / "src"
    compiler = compiler_identity(tools.command, COMMON) or ""
    stamp = _digest(*tools.command, compiler, *COMMON, *LEVELS.values(), _files_digest(simulator))
    library = cache_folder() / "simulated" / f"{_digest(stamp, _files_digest(source))[:32]}.so"
    if library.is_file():
        return library
    with tempfile.TemporaryDirectory(prefix="pangu-simulate-") as scratch:
        folder = Path(scratch)
        objects = [_simulator_object(tools, simulator, stamp, folder), _core_object(tools, source, stamp, folder)]
        for unit, text in _units(artifact, source).items():
            objects.append(_compile(tools, unit, text, _includes(source, simulator), folder))
        made = folder / library.name
        _run([*tools.command, *LINK, *map(str, objects), "-o", str(made), "-lm"])
        return _keep(made, library)


def _includes(source: Path, simulator: Path) -> list[Path]:
    own = [source / "kernels", source / "host", source / "core", source.parent / "include"]
    return [simulator / "include", simulator / "src", *own]


def _units(artifact: Artifact, source: Path) -> dict[str, str]:
    """Translation units: all kernels, each in a namespace, with what stands for the toolkit's launchers; the host program."""
    from pangu_compile.codegen.ascend.host import simulated_launchers, simulated_units

    plan = json.loads((artifact.path / "plan.json").read_text(encoding="utf-8"))
    rest = [source / name for name in list_files(source) if name.endswith(".cpp") and not name.startswith(("kernels/", "core/"))]
    units = {"kernels": simulated_units(plan, source / "kernels") + simulated_launchers(plan)}
    return units | {f"host {path.parent.name} {path.stem}": f'#include "{path}"\n' for path in rest}


def _simulator_object(tools: Toolchain, simulator: Path, stamp: str, scratch: Path) -> Path:
    """The simulator itself, which all artifacts share."""
    kept = cache_folder() / "simulated" / f"simulator-{stamp[:32]}.o"
    if kept.is_file():
        return kept
    includes = [simulator / "include", simulator / "src"]
    return _keep(_compile(tools, "simulator", _all_of(simulator / "src"), includes, scratch), kept)


def _core_object(tools: Toolchain, source: Path, stamp: str, scratch: Path) -> Path:
    """The runtime core, which all artifacts of one version of this package share."""
    core, include = source / "core", source.parent / "include"
    kept = cache_folder() / "simulated" / f"core-{_digest(stamp, _files_digest(core), _files_digest(include))[:32]}.o"
    return kept if kept.is_file() else _keep(_compile(tools, "core", _all_of(core), [core, include], scratch), kept)


def _all_of(folder: Path) -> str:
    """One translation unit of a folder's sources: a third of the time, since they share their standard headers."""
    return "".join(f'#include "{path}"\n' for path in sorted(folder.glob("*.cpp")))


def _compile(tools: Toolchain, unit: str, text: str, includes: Sequence[Path], scratch: Path) -> Path:
    name = unit.replace(" ", "_")
    source, made = scratch / f"{name}.cpp", scratch / f"{name}.o"
    source.write_text(text, encoding="utf-8")
    flags = [*COMMON, LEVELS[unit.split()[0]], *(f"-I{folder}" for folder in includes)]
    _run([*tools.command, *flags, "-c", str(source), "-o", str(made)])
    return made


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        lines = done.stderr.splitlines()
        reason = next((line for line in lines if "error" in line or "undefined" in line), lines[-1] if lines else "no message")
        raise CompileError(f"the artifact's sources do not build against the simulator: {reason.strip()}")


def _keep(made: Path, kept: Path) -> Path:
    """Put a finished file into the cache, whole or not at all."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=kept.parent, prefix=".new-")
        os.close(handle)
        shutil.copyfile(made, name)
        os.replace(name, kept)
    except OSError as error:
        raise UserError(f"cannot write {kept}: {error.strerror}; set PANGU_CACHE to a folder that you may write to") from error
    return kept
