"""What one pass through a program costs: every operator's flops and bytes, with the symbolic sizes filled in.

The bytes of an operator are those of its OpDef: every operand read once and every result written once, of stacked
experts and sparse caches only what is chosen. Activations count too, although most of them stay in a processor's
cache, so a sum over operators is an upper bound of the traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def kept_results(node: Node, kept: frozenset[Value]) -> list[bool]:
    """Which results of a node are weights or states again: views of such values, and updated states."""
    record = opdef(node.op)
    if record.kind == "view":
        return [all(v in kept for v in node.inputs)] * len(node.outputs)
    results, slots = node.attrs.get("results", ()), node.attrs.get("slots", ())
    operand = dict(zip(slots, node.inputs, strict=False))
    flags = [name in record.updates and operand.get(record.updates[name]) in kept for name in results]
    return flags or [False] * len(node.outputs)


def node_work(node: Node, env: Env, kept: frozenset[Value] = frozenset()) -> Work:
    """Cost of a node that is not a call. kept: values that are weights or states (not activations)."""
    record = opdef(node.op)
    inputs = [concrete(v.type, env) for v in node.inputs]
    outputs = [concrete(v.type, env) for v in node.outputs]
    cost = record.cost(inputs, outputs, node.attrs)
    flops, moved = evaluate_dim(cost.flops, env), evaluate_dim(cost.bytes, env)
    values = [t for v, t in zip(node.inputs, inputs, strict=True) if v not in kept]
    values += [t for t, flag in zip(outputs, kept_results(node, kept), strict=True) if not flag]
    return Work(flops, moved, min(moved, sum(int(t.nbytes) for t in values)))


def program_work(module: Module, program: Program, env: Env) -> list[Applied]:
    """Every operator that runs, in order; a function that is called 40 times appears 40 times."""
    kept = {v for v, r in zip(program.graph.params, program.params, strict=True) if r.kind in ("weight", "constant", "state")}
    return Walk(module).graph(program.graph, env, frozenset(kept))[0]


_Key = tuple[str, tuple[tuple[str, int], ...], tuple[bool, ...]]


class Walk:
    """Follows calls; a function with the same sizes and the same kinds of operands is walked once."""

    def __init__(self, module: Module):
        self.module = module
        self._known: dict[_Key, tuple[list[Applied], list[bool]]] = {}

    def graph(self, graph: Graph, env: Env, kept: frozenset[Value]) -> tuple[list[Applied], list[bool]]:
        """The operators of a graph, and which of its outputs are weights or states. kept: such parameters."""
        applied: list[Applied] = []
        known = set(kept)
        for node in graph.nodes:
            if node.op == "call":
                inner, flags = self._call(node, env, known)
                applied += inner
            else:
                now = frozenset(v for v in node.inputs if v in known)
                flags = kept_results(node, now)
                applied.append(Applied(node, node_work(node, env, now)))
            known.update(v for v, flag in zip(node.outputs, flags, strict=True) if flag)
        return applied, [v in known for v in graph.outputs]

    def _call(self, node: Node, env: Env, known: set[Value]) -> tuple[list[Applied], list[bool]]:
        inner = {**env, **{name: evaluate_dim(d, env) for name, d in node.dims.items()}}
        flags = tuple(v in known for v in node.inputs)
        key = (node.attrs["function"], tuple(sorted(inner.items())), flags)
        if key not in self._known:
            callee = self.module.functions[node.attrs["function"]]
            own = frozenset(p for p, flag in zip(callee.params, flags, strict=True) if flag)
            self._known[key] = self.graph(callee, inner, own)
        return self._known[key]


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
