"""Runs torch.export on each program with symbolic token counts and cache lengths, and imports the result."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo.config
import torch.fx.config
from torch.export import Dim

from pangu_compile.errors import CompileError
from pangu_compile.ir import (
    DType,
    Graph,
    IRError,
    Module,
    Role,
    StateInfo,
    TensorType,
    Value,
    inline_calls,
    symbol,
    verify_module,
)
from pangu_compile.ir.text import parse_dim
from pangu_compile.ir.types import Dim as Dim_
from pangu_compile.ir.types import unify
from pangu_compile.models.outlining import recording, structure
from pangu_compile.models.program_spec import ProgramSpec

from .hiding import unread_parameters_hidden
from .importer import ImportedWeights, import_program

# Example sizes of the symbolic dimensions: arbitrary, all different, and unlike each other's sums.
EXAMPLES = {"T": 7, "M": 5, "S": 11, "S1": 23, "S2": 29, "S3": 31}


@contextlib.contextmanager
def _no_stack_traces() -> Iterator[None]:
    """Without the Python stack of every operator: nobody reads it, and it takes a fifth of the time.

    Where torch lacks the switch nothing reads what is set here.
    """
    switch = "do_not_emit_stack_traces"
    before = getattr(torch.fx.config, switch, False)
    setattr(torch.fx.config, switch, True)
    try:
        yield
    finally:
        setattr(torch.fx.config, switch, before)


def _export(
    module: torch.nn.Module, args: Sequence[torch.Tensor], dynamic: Sequence[Any], what: str
) -> torch.export.ExportedProgram:
    try:
        # With symbolic sizes few results are ever found again in the cache of fake tensors: keeping it costs a tenth of the time.
        uncached = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
        with warnings.catch_warnings(), torch.no_grad(), unread_parameters_hidden(module, args), uncached, _no_stack_traces():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.export").setLevel(logging.ERROR)
            return torch.export.export(
                module,
                tuple(args),
                dynamic_shapes=_nested(module, dynamic),
                prefer_deferred_runtime_asserts_over_guards=True,
            )
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


def _states(spec: ProgramSpec) -> tuple[list[torch.Tensor], list[dict[int, str]], dict[str, Dim_]]:
    """Example states, their symbolic axes, and what those symbols stand for where that is an expression in the dims."""
    device = spec.inputs[0][1].device
    examples, axes, sizes = [], [], {}
    for s in spec.states:
        label = f"S{s.owner}" if s.owner in spec.cached else "S"
        if s.owner in spec.cached:
            sizes[label] = parse_dim(spec.cached[s.owner])
        examples.append(torch.zeros(s.rows if s.rows is not None else EXAMPLES[label], s.width, device=device))
        axes.append({0: label} if s.rows is None else {})
    return examples, axes, sizes


def trace_programs(specs: Sequence[ProgramSpec]) -> Module:
    """IR module of the programs; weights and states are shared by name.

    Modules called through `models.outlining.outlined` are exported once per structure and become functions.

    Raises:
        CompileError: torch.export refuses the module, or an operator is not covered (named, with its module path).
    """
    result = Module(info={"role": specs[0].role})
    known: dict[Any, list[OutlinedFunction]] = {}
    for spec in specs:
        states, state_axes, sizes = _states(spec)
        axes = [*({0: axis} if axis else {} for _, _, axis in spec.inputs), *state_axes]
        params = [Role("input", name) for name, _, _ in spec.inputs] + [Role("state", s.name) for s in spec.states]
        outputs = [Role("output", name) for name in spec.outputs] + [Role("state", s.name) for s in spec.states]
        args = [*(t for _, t, _ in spec.inputs), *states]
        with recording() as record:
            exported = _export(spec.module, args, _shapes(axes), spec.name)
        outlines = Outlines(spec.module, record.paths, spec.aliases, known, result)
        _import(result, spec.name, exported, params, outputs, axes, spec.aliases, ("T", "S", "M"), outlines, sizes=sizes)
        result.programs[spec.name].limits = dict(spec.limits)
        for s in spec.states:
            result.states[s.name] = StateInfo(s.name, "f32", s.width, s.rows, s.owner)
    _verify(result)
    return result


def _shapes(axes: Sequence[Mapping[int, str]]) -> list[Any]:
    dims = {n: Dim(n, min=2) for d in axes for n in d.values()}
    return [{i: dims[n] for i, n in d.items()} or None for d in axes]


def _example(size: Dim_, path: str) -> int:
    """Example size of an axis that is a single symbol."""
    if str(size) not in EXAMPLES:
        raise CompileError(f"{path}: traced at {size} rows before it was traced at any number: trace the step programs first")
    return EXAMPLES[str(size)]


def _own_names(module: torch.nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> its first one (modules may be reachable by several paths)."""
    first: dict[int, str] = {}
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors}


@dataclass
class OutlinedFunction:
    """A module structure that has been exported: its IR function and the parameter FQNs that follow the arguments.

    operands: types of the arguments as they were traced (passes may change the graph).
    """

    name: str
    weights: list[str]
    graph: Graph
    operands: list[TensorType]


@dataclass
class Outlines:
    """The outlined calls of one program: `resolve` gives function and weights of call number `key`."""

    program: torch.nn.Module
    paths: list[str]
    aliases: Mapping[str, str]
    known: dict[Any, list[OutlinedFunction]]
    module: Module
    prefix: str = "layer"

    def resolve(self, key: int, operands: Sequence[Value]) -> tuple[str, list[str], dict[str, Dim_]]:
        """Function name, canonical weight names in the order of its weight parameters, sizes that differ inside it.

        A structure that was exported serves operands of any sizes of its symbols.
        """
        target, path = self.program.get_submodule(self.paths[key]), self.paths[key]
        versions = self.known.setdefault(structure(target), [])
        types = [v.type for v in operands]
        found = next(((f, sizes) for f in versions if (sizes := unify(f.operands, types)) is not None), None)
        if found is None:
            function = self._export(target, operands, path)
            versions.append(function)
            found = function, unify(function.operands, types) or {}
        function, sizes = found
        self.module.functions.setdefault(function.name, function.graph)
        differing = {name: size for name, size in sizes.items() if size != symbol(name)}
        return function.name, [self.aliases[f"{path}.{fqn}"] for fqn in function.weights], differing

    def _export(self, target: torch.nn.Module, operands: Sequence[Value], path: str) -> OutlinedFunction:
        """Trace on fresh examples of the operands' types. An axis that is exactly a symbol stays symbolic."""
        device = next(target.parameters()).device
        args, axes = [], []
        for v in operands:
            sizes = [d if isinstance(d, int) else _example(d, path) for d in v.type.shape]
            dtype = torch.long if v.type.dtype is DType.i64 else torch.float32
            args.append(torch.zeros(sizes, dtype=dtype, device=device))
            axes.append({i: str(d) for i, d in enumerate(v.type.shape) if not isinstance(d, int)})
        with recording() as record:
            exported = _export(target, args, _shapes(axes), path)
        scratch = Module()
        params = [Role("input", f"a{i}") for i in range(len(args))]
        inner = Outlines(target, record.paths, _own_names(target), self.known, scratch, "part")
        # Modules that several structures share (mHC, ..) are traced once too, but end up inside each.
        _import(scratch, "outlined", exported, params, None, axes, None, (), inner, path)
        program = scratch.programs["outlined"]
        kin = sum(f.name.startswith(self.prefix) for versions in self.known.values() for f in versions)
        name = program.graph.name = f"{self.prefix}_{kin}"
        inline_calls(program.graph, scratch.functions, set(scratch.functions))
        self.module.functions[name] = program.graph
        if scratch.constants:
            raise CompileError(f"{path}: constant tensors in an outlined module are not covered; make them parameters")
        operand_types = [v.type for v in program.graph.params[: len(args)]]
        return OutlinedFunction(name, [r.key for r in program.params if r.kind == "weight"], program.graph, operand_types)


def trace_module(
    module: torch.nn.Module, args: Sequence[torch.Tensor], dynamic: Sequence[Mapping[int, str]] | None = None
) -> Module:
    """IR module of any torch module: one program `forward`, inputs `in0..`, outputs `out0..`.

    dynamic: per argument, axis -> symbolic dimension name (a name shared by several axes is one size).
    """
    axes = [dict(d) for d in dynamic] if dynamic is not None else [{} for _ in args]
    names = sorted({n for d in axes for n in d.values()})
    exported = _export(module.eval(), args, _shapes(axes), type(module).__name__)
    result = Module(info={"role": "module"})
    params = [Role("input", f"in{i}") for i in range(len(args))]
    _import(result, "forward", exported, params, None, axes, None, tuple(names))
    _verify(result)
    return result


def _import(
    result: Module, name: str, exported: torch.export.ExportedProgram, params: list[Role], outputs: list[Role] | None,
    axes: Sequence[Mapping[int, str]], aliases: Mapping[str, str] | None, dims: tuple[str, ...],
    outlines: Outlines | None = None, path: str = "", sizes: Mapping[str, Dim_] | None = None,
) -> None:  # fmt: skip
    """Import as it is; where an operator is not covered, import once more from torch's decomposed form."""

    def run(form: torch.export.ExportedProgram) -> None:
        weights = ImportedWeights(aliases or {}, dict(result.weights), dict(result.constants))
        program = import_program(name, form, params, outputs, axes, weights, outlines, path, sizes or {})
        program.dims = dims
        result.programs[name] = program
        result.weights, result.constants = weights.weights, weights.constants

    try:
        run(exported)
    except IRError as first:
        if outlines is not None and outlines.paths:  # an outlined call cannot be decomposed
            raise CompileError(str(first).splitlines()[0]) from first
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run(exported.run_decompositions())
        except IRError as error:
            raise CompileError(str(error).splitlines()[0]) from error


def _verify(module: Module) -> None:
    try:
        verify_module(module)
    except IRError as error:
        raise CompileError(str(error).splitlines()[0]) from error
