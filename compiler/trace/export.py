"""Runs torch.export on each program with symbolic token counts and cache lengths, and imports the result."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.export import Dim

from pangu_compile.errors import CompileError
from pangu_compile.ir import IRError, Module, Role, StateInfo, verify_module
from pangu_compile.models.program_spec import ProgramSpec

from .importer import ImportedWeights, import_program

APPEND_EXAMPLE = 11  # rows of the example cache; stands for S and differs from the examples of T and M


def _export(module: torch.nn.Module, args: Sequence[torch.Tensor], dynamic: Sequence[Any], what: str) -> torch.export.ExportedProgram:
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.export").setLevel(logging.ERROR)
            exported = torch.export.export(module, tuple(args), dynamic_shapes=_nested(module, dynamic), prefer_deferred_runtime_asserts_over_guards=True)
            return exported.run_decompositions()
    except Exception as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CompileError(f"tracing of {what} failed in torch.export: {first}") from error


def _nested(module: torch.nn.Module, shapes: Sequence[Any]) -> tuple[Any, ...]:
    """torch.export wants the shapes of `*args` as one nested tuple."""
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(shapes)
    fixed = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:fixed], tuple(shapes[fixed:]))


def _state_example(width: int, rows: int | None, device: torch.device) -> torch.Tensor:
    return torch.zeros(rows if rows is not None else APPEND_EXAMPLE, width, device=device)


def trace_programs(specs: Sequence[ProgramSpec]) -> Module:
    """IR module of the programs; weights and states are shared by name.

    Raises:
        CompileError: torch.export refuses the module, or an operator is not covered (named, with its module path).
    """
    result = Module(info={"role": specs[0].role})
    for spec in specs:
        dims = {name: Dim(name, min=2) for name in ("T", "S", "M")}
        device = spec.inputs[0][1].device
        states = [_state_example(s.width, s.rows, device) for s in spec.states]
        shapes: list[Any] = [{0: dims[axis]} if axis else None for _, _, axis in spec.inputs]
        shapes += [{0: dims["S"]} if s.rows is None else None for s in spec.states]
        exported = _export(spec.module, [*(t for _, t, _ in spec.inputs), *states], shapes, spec.name)
        params = [Role("input", name) for name, _, _ in spec.inputs] + [Role("state", s.name) for s in spec.states]
        outputs = [Role("output", name) for name in spec.outputs] + [Role("state", s.name) for s in spec.states]
        axes = [{0: axis} if axis else {} for _, _, axis in spec.inputs]
        axes += [{0: "S"} if s.rows is None else {} for s in spec.states]
        _import(result, spec.name, exported, params, outputs, axes, spec.aliases, ("T", "S", "M"))
        for s in spec.states:
            result.states[s.name] = StateInfo(s.name, "f32", s.width, s.rows, s.owner)
    _verify(result)
    return result


def trace_module(
    module: torch.nn.Module, args: Sequence[torch.Tensor], dynamic: Sequence[Mapping[int, str]] | None = None
) -> Module:
    """IR module of any torch module: one program `forward`, inputs `in0..`, outputs `out0..`.

    dynamic: per argument, axis -> symbolic dimension name (a name shared by several axes is one size).
    """
    axes = [dict(d) for d in dynamic] if dynamic is not None else [{} for _ in args]
    names = sorted({n for d in axes for n in d.values()})
    dims = {n: Dim(n, min=2) for n in names}
    shapes = [{i: dims[n] for i, n in d.items()} or None for d in axes]
    exported = _export(module.eval(), args, shapes, type(module).__name__)
    result = Module(info={"role": "module"})
    params = [Role("input", f"in{i}") for i in range(len(args))]
    _import(result, "forward", exported, params, None, axes, None, tuple(names))
    _verify(result)
    return result


def _import(
    result: Module, name: str, exported: torch.export.ExportedProgram, params: list[Role], outputs: list[Role] | None,
    axes: Sequence[Mapping[int, str]], aliases: Mapping[str, str] | None, dims: tuple[str, ...],
) -> None:  # fmt: skip
    weights = ImportedWeights(aliases or {}, result.weights, result.constants)
    try:
        program = import_program(name, exported, params, outputs, axes, weights)
    except IRError as error:
        raise CompileError(str(error).splitlines()[0]) from error
    program.dims = dims
    result.programs[name] = program


def _verify(module: Module) -> None:
    try:
        verify_module(module)
    except IRError as error:
        raise CompileError(str(error).splitlines()[0]) from error
