"""ONNX files: `inspect --onnx` writes one program of a model, `pangu_compile.compile_onnx` compiles one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pangu_compile.errors import CompileError, UserError
from pangu_compile.ir import DType

from .artifact import WEIGHTS, Artifact, ArtifactWriter, check_destination
from .bf16 import compression
from .build import ReadWeight, canonical_reader
from .checkpoint import Checkpoint
from .emit import Job, emit, runtime_files
from .optimise import optimise_and_plan
from .options import make_options
from .packing import unpack
from .progress import Progress, Silent
from .summary import Opened, open_path, optimised
from .toolchain import arch_flags, find_compiler

if TYPE_CHECKING:
    from pangu_compile.ir import Module

STORED = {"f32": "<f4", "f64": "<f8", "i64": "<i8", "i32": "<i4", "bool": "?"}
PACKED = ("bf16", "bf16c", "q8", "q8i", "w8a8", "q4")


def require_onnx() -> None:
    """UserError where the package is missing."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise UserError("ONNX files need the package onnx: pip install 'pangu-compile[onnx]'") from error


def write_onnx(path: Path, out: Path, program: str = "step", progress: Progress | None = None, external: bool = False) -> None:
    """Write one program of a checkpoint's or an artifact's optimised model to the ONNX file `out`.

    Weights go into the file; from 1.5 GB on, or with `external`, into `out` + ".data" beside it. A folder that holds
    nothing but config.json gives a model whose weights are inputs.

    Raises:
        UserError: no such model or program, a destination that cannot be written, or onnx is not installed.
        CompileError: the model does not compile.
    """
    require_onnx()
    out = Path(out)
    if not out.parent.is_dir():
        raise UserError(f"cannot write {out}: its folder does not exist")
    bar = progress or Silent()
    opened = open_path(Path(path))
    module = optimised(opened, opened.build_options(), None, bar)
    if program not in module.programs:
        raise UserError(f"program {program!r} is not one of {', '.join(module.programs)}")
    read = _weight_reader(opened, module, program)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
            _write(module, program, read, Path(scratch), out, external, bar)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error


def _write(
    module: Module, program: str, read: ReadWeight | None, scratch: Path, out: Path, external: bool, bar: Progress
) -> None:  # fmt: skip
    """Make model and data file in `scratch`, check them, and move them to their place."""
    import onnx

    from pangu_compile.ir import IRError
    from pangu_compile.onnx import LARGE, Initializers, export_onnx

    keys = {role.key for role in module.programs[program].params if role.kind == "weight"}
    total = sum(int(module.weights[key].nbytes) for key in keys)
    bar.stage("writing ONNX", max(len(keys), 1))
    data = scratch / f"{out.name}.data" if read is not None and (external or total > LARGE) else None

    def counted(name: str) -> np.ndarray:
        assert read is not None
        bar.advance(1)
        return read(name)

    try:
        with Initializers(data) as weights:
            model = export_onnx(module, program, None if read is None else counted, weights)
        model.graph.doc_string = f"program {program}; made by pangu-compile"
        onnx.save(model, str(scratch / out.name))
        onnx.checker.check_model(str(scratch / out.name))
    except (IRError, onnx.checker.ValidationError) as error:
        raise CompileError(f"ONNX export of {program}: {' '.join(str(error).split())}") from error
    if data is not None:
        os.replace(data, out.parent / data.name)
    os.replace(scratch / out.name, out)


def _weight_reader(opened: Opened, module: Module, program: str) -> ReadWeight | None:
    """Final values of weights by name; None where the folder has no weights."""
    from pangu_compile.onnx import with_folded

    if opened.artifact is not None:
        return _artifact_reader(opened.artifact, module, program)
    checkpoint = Checkpoint.open(opened.path, weights=False)
    if not checkpoint.has_weights:
        return None
    return with_folded(module, canonical_reader(checkpoint, opened.config, opened.build_options().mtp))


def _artifact_reader(artifact: Artifact, module: Module, program: str) -> ReadWeight:
    """Tensors of an artifact, folded ones included; packed ones as the float32 numbers that they stand for."""
    table = artifact.manifest["tensors"]
    for role in module.programs[program].params:
        if role.kind != "weight":
            continue
        entry = table.get(role.key)
        known = entry is not None and entry.get("format") in (*STORED, *PACKED)
        if not known or tuple(entry["logical_shape"]) != tuple(module.weights[role.key].shape):
            raise UserError(f"{artifact.path} lacks tensor {role.key} as the model has it; export its checkpoint instead")

    def read(name: str) -> np.ndarray:
        entry = table[name]
        shape = tuple(entry["logical_shape"])
        if entry["format"] in STORED:
            return np.memmap(artifact.path / WEIGHTS, STORED[entry["format"]], "r", entry["offset"], shape)
        raw = np.memmap(artifact.path / WEIGHTS, np.uint8, "r", entry["offset"], (entry["nbytes"],))
        return unpack(DType(entry["format"]).layout, raw, shape)

    return read


def compile_onnx(
    path: str | Path, out: str | Path, max_sizes: Mapping[str, int] | None = None, progress: Progress | None = None, **options: Any
) -> Artifact:
    """Compile an ONNX file into the artifact `out` with one program, `forward`.

    Args:
        max_sizes: how large each symbolic size (dim_param) of the inputs may get.
        options: further fields of BuildOptions (arch, validate, dump_ir).
    Raises:
        UserError: a bad option, file or destination, or a symbolic size without a maximum.
        CompileError: an operator that is not covered, or a C++ compiler that fails.
    """
    require_onnx()
    from pangu_compile.ir import IRError
    from pangu_compile.onnx import load_onnx

    chosen = make_options(**options)
    bar = progress or Silent()
    check_destination(Path(out))
    tools = find_compiler(chosen.compiler)
    arch_flags(tools, chosen.arch)
    runtime_files()
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file")
    bar.stage("reading ONNX", 1)
    try:
        imported = load_onnx(path)
    except IRError as error:
        raise CompileError(f"{path}: {' '.join(str(error).split())}") from error
    bar.advance(1)
    limits = dict(max_sizes or {})
    for name in imported.module.programs["forward"].dims:
        if name not in limits:
            raise UserError(f"max_sizes: no maximum for the symbolic size {name!r}")
    compresses = compression(lambda name: (imported.read(name),), chosen.jobs)
    plan = optimise_and_plan(imported.module, chosen, 1, bar, limits, compresses=compresses)
    manifest: dict[str, Any] = {"model_type": "onnx", "max_sizes": limits}
    with ArtifactWriter(out) as writer:
        return emit(Job(plan, imported.read, chosen, tools, manifest), writer, bar)
