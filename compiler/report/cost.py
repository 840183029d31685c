"""What one pass through a program costs: every operator's flops and bytes, with the symbolic sizes filled in.

The bytes of an operator are those of its OpDef: every operand read once and every result written once, of stacked
experts and sparse caches only what is chosen. Activations count too, although most of them stay in a processor's
cache, so a sum over operators is an upper bound of the traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pangu_compile.ir import Graph, Module, Node, Program, TensorType, Value, evaluate_dim, opdef

Env = Mapping[str, int]


@dataclass(frozen=True)
class Work:
    """flops and bytes of one application; `activations`: those bytes that are neither weights nor states."""

    flops: int
    bytes: int
    activations: int = 0


@dataclass(frozen=True)
class Applied:
    """One application of an operator: where, and what it costs."""

    node: Node
    work: Work


@dataclass
class OperatorTotal:
    """All applications of one operator."""

    op: str
    count: int = 0
    flops: int = 0
    bytes: int = 0
    seconds: float = 0.0

    @property
    def intensity(self) -> float:
        """Flops per byte."""
        return self.flops / self.bytes if self.bytes else 0.0


def concrete(type_: TensorType, env: Env) -> TensorType:
    return TensorType(type_.dtype, tuple(evaluate_dim(d, env) for d in type_.shape))


def node_work(node: Node, env: Env, kept: frozenset[Value] = frozenset()) -> Work:
    """Cost of a node that is not a call. kept: values that are weights or states (not activations)."""
    record = opdef(node.op)
    inputs = [concrete(v.type, env) for v in node.inputs]
    outputs = [concrete(v.type, env) for v in node.outputs]
    cost = record.cost(inputs, outputs, node.attrs)
    flops, moved = evaluate_dim(cost.flops, env), evaluate_dim(cost.bytes, env)
    replaced = set(record.updates)
    results = node.attrs.get("results", ())
    values = [t for v, t in zip(node.inputs, inputs, strict=True) if v not in kept]
    values += [t for i, t in enumerate(outputs) if not (i < len(results) and results[i] in replaced)]
    return Work(flops, moved, min(moved, sum(int(t.nbytes) for t in values)))


def program_work(module: Module, program: Program, env: Env) -> list[Applied]:
    """Every operator that runs, in order; a function that is called 40 times appears 40 times."""
    kept = {v for v, r in zip(program.graph.params, program.params, strict=True) if r.kind in ("weight", "constant", "state")}
    return list(_walk(module, program.graph, env, frozenset(kept), {}))


_Memo = dict[tuple[str, tuple[tuple[str, int], ...], tuple[bool, ...]], list[Applied]]


def _walk(module: Module, graph: Graph, env: Env, kept: frozenset[Value], memo: _Memo) -> Iterator[Applied]:
    for node in graph.nodes:
        if node.op != "call":
            yield Applied(node, node_work(node, env, kept))
            continue
        inner = {**env, **{name: evaluate_dim(d, env) for name, d in node.dims.items()}}
        flags = tuple(v in kept for v in node.inputs)
        key = (node.attrs["function"], tuple(sorted(inner.items())), flags)
        if key not in memo:
            callee = module.functions[node.attrs["function"]]
            own = frozenset(p for p, flag in zip(callee.params, flags, strict=True) if flag)
            memo[key] = list(_walk(module, callee, inner, own, memo))
        yield from memo[key]


def by_operator(work: list[Applied], seconds: Callable[[str, Work], float]) -> list[OperatorTotal]:
    """Totals by operator name, the most bytes first. Operators that neither compute nor move anything are left out."""
    table: dict[str, OperatorTotal] = {}
    for applied in work:
        if not (applied.work.flops or applied.work.bytes):
            continue
        total = table.setdefault(applied.node.op, OperatorTotal(applied.node.op))
        total.count += 1
        total.flops += applied.work.flops
        total.bytes += applied.work.bytes
        total.seconds += seconds(applied.node.op, applied.work)
    return sorted(table.values(), key=lambda t: (-t.bytes, t.op))


def total_work(work: list[Applied]) -> Work:
    return Work(
        sum(a.work.flops for a in work), sum(a.work.bytes for a in work), sum(a.work.activations for a in work)
    )  # fmt: skip
