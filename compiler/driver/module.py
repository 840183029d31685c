"""`pangu_compile.compile_module`: any torch module that torch.export takes, compiled through the same door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pangu_compile.errors import UserError

from .artifact import Artifact, ArtifactWriter, check_destination
from .bf16 import compression
from .build import module_tensors
from .emit import Job, emit, runtime_files
from .optimise import optimise_and_plan
from .options import make_options
from .progress import Progress, Silent
from .toolchain import arch_flags, find_compiler

if TYPE_CHECKING:
    import torch


def compile_module(
    module: torch.nn.Module,
    args: Sequence[torch.Tensor],
    out: str | Path,
    dynamic: Sequence[Mapping[int, str]] | None = None,
    max_sizes: Mapping[str, int] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Artifact:
    """Compile `module` into the artifact `out` with one program, `forward`.

    Args:
        args: example inputs.
        dynamic: for each input, axis -> name of a symbolic size; max_sizes says how large each name may get.
        options: further fields of BuildOptions (arch, validate, dump_ir).
    Raises:
        UserError: a bad option or destination, or a symbolic size without a maximum.
        CompileError: an operator that is not covered, or a C++ compiler that fails.
    """
    from pangu_compile.trace import trace_module

    chosen = make_options(**options)
    if chosen.target != "cpu":
        raise UserError(f"target {chosen.target!r} is for checkpoints of language models; compile modules for cpu")
    bar = progress or Silent()
    check_destination(Path(out))
    names = sorted({name for axes in dynamic or () for name in axes.values()})
    limits = dict(max_sizes or {})
    for name in names:
        if name not in limits:
            raise UserError(f"max_sizes: no maximum for the symbolic size {name!r}")
    tools = find_compiler(chosen.compiler)
    arch_flags(tools, chosen.arch)
    runtime_files()
    bar.stage("tracing", 1)
    traced = trace_module(module, args, dynamic)
    bar.advance(1)
    tensors = module_tensors(module)

    def read(name: str) -> np.ndarray:
        if name not in tensors:
            raise UserError(f"parameter {name} of {type(module).__name__} has no data (it is on the meta device)")
        return tensors[name]

    compresses = compression(lambda name: (read(name),), chosen.jobs)
    plan = optimise_and_plan(traced, chosen, 1, bar, limits, compresses=compresses)
    manifest: dict[str, Any] = {"model_type": type(module).__name__, "max_sizes": limits}
    with ArtifactWriter(out) as writer:
        return emit(Job(plan, read, chosen, tools, manifest), writer, bar)
