"""From plan to artifact: weights, sources, library, manifest. Shared by model builds and compiled torch modules."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pangu_compile.errors import CompileError
from pangu_compile.ir import DType

from .artifact import LIBRARY, WEIGHTS, Artifact, ArtifactWriter, json_text
from .manifest import producer, program_entries, state_entries, tensor_entries
from .options import BuildOptions
from .packing import pack_parts
from .progress import Progress
from .rendering import render
from .safetensors_file import Layout, LayoutWriter
from .toolchain import Toolchain, arch_flags, build_library, compile_flags, levels, required_features

if TYPE_CHECKING:
    from pangu_compile.plan import Plan, PlannedWeight

CMAKE_KNOWS = ("-fPIC", "-pthread", "-pipe")  # CMake adds these itself, or does not need them
RUNTIME_UNIT = "runtime.cpp"
INCLUDES = (".", "core", "../include")  # relative to src/
SAFETENSORS_DTYPES = {"f32": "F32", "f64": "F64", "i64": "I64", "i32": "I32", "bool": "BOOL", "bf16": "BF16"}

ReadWeight = Callable[[str], np.ndarray]
ReadParts = Callable[[str], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Job:
    """One artifact to write. `manifest` holds the entries that the caller knows (config, model type, ...).

    `read` gives a parameter by name; `parts`, where there is one, the same piece by piece along its first axis. `report`: the page
    of the model, empty for none.
    """

    plan: Plan
    read: ReadWeight
    options: BuildOptions
    tools: Toolchain
    manifest: dict[str, Any]
    extra_files: tuple[Path, ...] = ()
    parts: ReadParts | None = None
    report: str = ""


def runtime_files() -> tuple[list[Path], list[Path]]:
    """Sources of the runtime core, and its public headers.

    Raises:
        CompileError: the installation lacks them.
    """
    import pangu_compile.runtime as runtime

    root = Path(next(iter(runtime.__path__)))
    core = sorted(p for p in (root / "core").glob("*") if p.suffix in (".h", ".cpp"))
    include = sorted((root / "include").glob("*.h"))
    if not include or not any(p.suffix == ".cpp" for p in core):
        raise CompileError(f"the runtime core is missing from {root}; install pangu-compile again")
    return core, include


def copy_runtime(writer: ArtifactWriter) -> list[str]:
    """Copy the runtime core and its public headers; returns the core's files relative to src/."""
    core, include = runtime_files()
    for path in core:
        writer.copy(path, f"src/core/{path.name}")
    for path in include:
        writer.copy(path, f"include/{path.name}")
    return [f"core/{path.name}" for path in core]


def runtime_names() -> list[str]:
    """The files that the runtime's unit reads, relative to src/."""
    core, include = runtime_files()
    return [*(f"core/{path.name}" for path in core), *(f"../include/{path.name}" for path in include)]


def parameter_parts(planned: PlannedWeight, read: ReadWeight, parts: ReadParts | None) -> Iterator[np.ndarray]:
    """A weight's values in order: piece by piece along the first axis where the reader can, else whole."""
    if planned.folded is not None or planned.constant is not None or parts is None:
        yield planned.compute(read)
    else:
        yield from parts(planned.name)


def emit(job: Job, writer: ArtifactWriter, progress: Progress) -> Artifact:
    """Write everything into `writer` and commit it."""
    layout = Layout((w.name, *_stored(w)) for w in job.plan.weights)
    sources = _write_sources(job, layout.offsets(), writer)
    _write_weights(job, layout, writer, progress)
    _compile(job, sources, writer, progress)
    writer.write("plan.json", json_text(job.plan.to_json()))
    if job.report:
        writer.write("report.html", job.report)
    for file in job.extra_files:
        writer.copy(file, file.name)
    progress.stage("finishing", 1)
    artifact = writer.commit(_manifest(job, layout))
    progress.advance(1)
    return artifact


def _write_weights(job: Job, layout: Layout, writer: ArtifactWriter, progress: Progress) -> None:
    progress.stage("weights", max(layout.total, 1))
    with writer.stream(WEIGHTS) as stream:
        out = LayoutWriter(layout, stream)
        progress.advance(len(layout.header))
        for planned in job.plan.weights:
            if DType(planned.dtype).is_packed or planned.dtype == "bf16":
                out.add_pieces(planned.name, _packed(job, planned))
            else:
                out.add(planned.name, planned.compute(job.read))
            progress.advance(planned.nbytes)
        out.finish()


def _stored(planned: PlannedWeight) -> tuple[str, tuple[int, ...]]:
    """safetensors dtype and shape: packed formats are bytes; the manifest has their true shape."""
    if DType(planned.dtype).is_packed:
        return "U8", (planned.nbytes,)
    return SAFETENSORS_DTYPES[planned.dtype], tuple(planned.shape)


def _packed(job: Job, planned: PlannedWeight) -> Iterator[np.ndarray]:
    """The stored bytes of one tensor in order; needs little memory beside one part of the parameter."""
    parts = parameter_parts(planned, job.read, job.parts)
    return pack_parts(DType(planned.dtype).layout, tuple(planned.shape), parts, planned.name, job.options.jobs)


def _write_sources(job: Job, offsets: Mapping[str, int], writer: ArtifactWriter) -> list[str]:
    """src/ and include/; returns what is to be compiled, relative to src/."""
    from pangu_compile.codegen.cpu import generate

    more = levels(job.options)
    generated = generate(job.plan, dict(offsets), leveled=bool(more))
    if more:
        generated |= {level.source: render("level.cpp.jinja", level=level) for level in more}
        generated["levels.cpp"] = render("levels.cpp.jinja", levels=more, machine=job.tools.machine)
    for name in sorted(generated):
        writer.write(f"src/{name}", generated[name])
    # One translation unit: half the time, since the files share their standard headers.
    parts = [f'#include "{name}"\n' for name in copy_runtime(writer) if name.endswith(".cpp")]
    writer.write(f"src/{RUNTIME_UNIT}", "// The runtime core.\n" + "".join(parts))
    sources = _link_order([name for name in (*sorted(generated), RUNTIME_UNIT) if name.endswith(".cpp")], job)
    writer.write("src/CMakeLists.txt", _cmake(job, sources))
    return sources


def _level_flags(job: Job) -> dict[str, tuple[str, ...]]:
    return {level.source: level.flags for level in levels(job.options)}


def _link_order(sources: list[str], job: Job) -> list[str]:
    """What better processors run comes last, the best at the very end: of an inline function that several files have, the
    linker keeps the first, which every processor that calls it must be able to run."""
    best_last = list(reversed(_level_flags(job)))
    return [name for name in sources if name not in best_last] + best_last


def _cmake(job: Job, sources: list[str]) -> str:
    arch = arch_flags(job.tools, job.options.arch)
    return render(
        "CMakeLists.txt.jinja", name_hint="NAME.pangu", sources=sources, private_includes=list(INCLUDES[:-1]),
        flags=[flag for flag in compile_flags(job.tools, job.options) if flag not in (*arch, *CMAKE_KNOWS)],
        arch_flags=list(arch), level_flags=_level_flags(job),
    )  # fmt: skip


def _compile(job: Job, sources: list[str], writer: ArtifactWriter, progress: Progress) -> None:
    progress.stage("compiling", len(sources) + 1)
    with tempfile.TemporaryDirectory(prefix="pangu-objects-") as scratch:
        build_library(
            job.tools, compile_flags(job.tools, job.options), writer.root.resolve() / "src", sources, INCLUDES,
            writer.path(LIBRARY).resolve(), Path(scratch), job.options.jobs, progress.advance, _level_flags(job),
            {RUNTIME_UNIT: runtime_names()},
        )  # fmt: skip


def _manifest(job: Job, layout: Layout) -> dict[str, Any]:
    plan = job.plan
    flags = compile_flags(job.tools, job.options)
    programs, tensors = program_entries(plan.programs), tensor_entries(layout)
    for name, p in plan.programs.items():
        programs[name]["arena_bytes"] = p.arena_bytes
    for entry, w in zip(tensors.values(), plan.weights, strict=True):
        entry |= {"format": w.dtype, "logical_shape": list(w.shape)}
    return {
        "producer": producer(),
        "role": plan.info["role"],
        **job.manifest,
        "target": job.options.target,
        "weights": job.options.weights,
        "max_context": plan.max_context,
        "max_chunk": plan.max_chunk,
        "options": job.options.recorded(),
        "entry_points": {"library": LIBRARY, "weights": WEIGHTS, "header": "include/pangu_runtime.h"},
        "cpu": {"machine": job.tools.machine, "flags": flags, "requires": required_features(job.tools, flags),
                "levels": [{"name": level.name, "flags": list(level.flags)} for level in levels(job.options)]},
        "programs": programs, "tensors": tensors, "states": state_entries(plan.states),
    }  # fmt: skip
