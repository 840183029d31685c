"""Translation validation: the numpy interpreter runs a module before and after a pass on the same random inputs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pangu_compile.ir import DType, IRError, Module, Program, TensorType, evaluate_dim, run_graph

DIMS = {"T": 5, "S": 9, "M": 3}
TOLERANCE = 1e-9  # the interpreter runs in float64, so a right rewrite differs by rounding alone
MAX_INDEX = 3  # integer inputs are indices: stay inside the smallest table
PROBABILITIES = ("temperature", "top_p", "draft_uniform", "uniform")  # inputs that are numbers between 0 and 1
MAX_ELEMENTS = 50_000_000


@dataclass
class Snapshot:
    """Inputs by role and the outputs that they gave."""

    inputs: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    outputs: dict[str, list[np.ndarray]] = field(default_factory=dict)


def _random(kind: str, key: str, type_: TensorType, rng: np.random.Generator) -> np.ndarray:
    shape = tuple(evaluate_dim(d, _env(type_)) for d in type_.shape)
    if type_.dtype is DType.i64:
        return np.asarray(DIMS["S"] if key == "start" else rng.integers(0, MAX_INDEX, shape), np.int64).reshape(shape)
    if type_.dtype is DType.bool_:
        return rng.random(shape) < 0.5
    if key in PROBABILITIES:
        return rng.random(shape)
    if kind == "weight":
        scale = 1.0 / np.sqrt(max(1, shape[-1])) if len(shape) > 1 else 0.5
        return rng.standard_normal(shape) * scale + (0.0 if len(shape) > 1 else 1.0)
    return rng.standard_normal(shape)


def _env(type_: TensorType) -> dict[str, int]:
    names = {s.name for d in type_.shape if not isinstance(d, int) for s in d.free_symbols}
    return {name: DIMS.get(name, 4) for name in names}


def _program_env(program: Program) -> dict[str, int]:
    return {name: DIMS.get(name, 4) for name in program.dims}


def _arguments(module: Module, program: Program, inputs: dict[tuple[str, str], np.ndarray]) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    arguments = []
    for role, param in zip(program.params, program.graph.params, strict=True):
        if role.kind == "constant":
            arguments.append(module.constants[role.key])
        elif role.key in module.folded:
            folded = module.folded[role.key]
            sources = [inputs[("weight", s)] for s in folded.sources]
            arguments.append(run_graph(folded.graph, sources, {})[0])
        else:
            # A state may be read at other sizes by another program; a weight has one.
            slot = (role.kind, role.key if role.kind == "weight" else f"{role.key}: {param.type}")
            if slot not in inputs:
                inputs[slot] = _random(role.kind, role.key, param.type, rng)
            arguments.append(inputs[slot])
    return arguments


def _too_large(module: Module) -> bool:
    return sum(int(t.numel) for t in module.weights.values()) > MAX_ELEMENTS


def _run(module: Module, inputs: dict[tuple[str, str], np.ndarray]) -> dict[str, list[np.ndarray]]:
    results = {}
    for name, program in module.programs.items():
        arguments = _arguments(module, program, inputs)
        results[name] = run_graph(program.graph, arguments, _program_env(program), module)
    return results


def snapshot(module: Module) -> Snapshot:
    """Random inputs and the module's outputs on them. IRError where the weights are too many to interpret."""
    if _too_large(module):
        raise IRError(f"--validate interprets every operator: at most {MAX_ELEMENTS:,} weight elements; use a smaller config")
    taken = Snapshot()
    taken.outputs = _run(module, taken.inputs)
    return taken


def compare(name: str, before: Snapshot, module: Module) -> Snapshot:
    """The new snapshot; IRError naming the pass, the program and the output where the meaning changed."""
    outputs = _run(module, before.inputs)
    for program, old in before.outputs.items():
        roles = module.programs[program].outputs
        for role, was, now in zip(roles, old, outputs[program], strict=True):
            scale = max(1.0, float(np.abs(was[np.isfinite(was)]).max(initial=0.0))) if was.dtype.kind == "f" else 1.0
            difference = np.abs(was.astype(np.float64) - now.astype(np.float64)).max(initial=0.0)
            if was.shape != now.shape or not difference <= TOLERANCE * scale:
                raise IRError(f"pass {name} changed {program}'s {role.kind} {role.key}: differs by {difference:.3g}")
    return Snapshot(before.inputs, outputs)
