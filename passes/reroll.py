"""Rerolling: a run of equal consecutive steps (Sinkhorn's 20 rounds) becomes calls of one small function.

Tracing unrolls every loop. A window of P operators that repeats at least three times, each round wired to the round
before it exactly as that one was to its own predecessor, is written once and called.
"""

from __future__ import annotations

from pangu_compile.ir import Graph, Module, Node, Value

from .canonicalise import dead_code
from .outline import extract_run, run_boundary, run_key

MAX_PERIOD = 24
MIN_ROUNDS = 3
MIN_NODES = 4


def _signature(node: Node) -> tuple[object, ...]:
    attrs = tuple(sorted((k, repr(v)) for k, v in node.attrs.items()))
    return (node.op, attrs, tuple(str(v.type) for v in node.outputs), len(node.inputs))


def _alike(a: Node, b: Node, period: int, place: dict[Value, tuple[int, int]]) -> bool:
    """Is b what a is, one round later: each operand shifted by the period, or the same value from outside?"""
    for x, y in zip(a.inputs, b.inputs, strict=True):
        if x is y:
            continue
        if x not in place or y not in place:
            return False
        (i, port_x), (j, port_y) = place[x], place[y]
        if j - i != period or port_x != port_y:
            return False
    return True


def _longest(
    nodes: list[Node], start: int, signatures: list[object], place: dict[Value, tuple[int, int]]
) -> tuple[int, int] | None:
    """(period, rounds) of the repetition that begins at `start` and covers most, or None."""
    best: tuple[int, int] | None = None
    for period in range(MIN_NODES, MAX_PERIOD + 1):
        at = start
        while (
            at + period < len(nodes)
            and signatures[at] == signatures[at + period]
            and (at < start + period or _alike(nodes[at], nodes[at + period], period, place))
        ):
            at += 1
        rounds = (at - start) // period + 1
        if rounds >= MIN_ROUNDS and (best is None or rounds * period > best[0] * best[1]):
            best = (period, rounds)
    return best


def _hoist_constants(graph: Graph) -> None:
    """Constants first, so that they are shared values and not part of any round."""
    constants = [n for n in graph.nodes if n.op == "constant"]
    graph.nodes = constants + [n for n in graph.nodes if n.op != "constant"]


def _reroll_graph(module: Module, graph: Graph, known: dict[tuple[object, ...], str]) -> None:
    _hoist_constants(graph)
    nodes = graph.nodes
    signatures: list[object] = [_signature(n) for n in nodes]
    place = {v: (i, v.index) for i, n in enumerate(nodes) for v in n.outputs}
    users, outputs = graph.users(), set(graph.outputs)
    replaced: dict[Value, Value] = {}
    result: list[Node] = []
    at = 0
    while at < len(nodes):
        found = _longest(nodes, at, signatures, place) if nodes[at].op not in ("constant", "call") else None
        rounds = _split(nodes, at, *found) if found else []
        keyed = [(run, *run_boundary(run, users, outputs)) for run in rounds]
        keys = [run_key(run, ins, outs, {}) for run, ins, outs in keyed]
        # The first and the last round may be wired differently to what is around them; those that agree are called.
        common = max(set(keys), key=keys.count) if keys else None
        if common is None or keys.count(common) < MIN_ROUNDS:
            result.append(nodes[at])
            at += 1
            continue
        if common not in known:
            known[common] = f"{graph.name}_repeat_{len(known)}"
            run, ins, outs = keyed[keys.index(common)]
            module.functions[known[common]], _ = extract_run(known[common], run, ins, outs)
        for (run, ins, outs), key in zip(keyed, keys, strict=True):
            if key != common:
                result += run
                continue
            call = Node("call", ins, {"function": known[common]}, run[0].loc)
            call.outputs = [Value("", v.type, call, i) for i, v in enumerate(outs)]
            replaced.update(zip(outs, call.outputs, strict=True))
            result.append(call)
        at += sum(len(run) for run in rounds)
    graph.nodes = result
    graph.replace_uses(replaced)
    dead_code(graph)


def _split(nodes: list[Node], at: int, period: int, rounds: int) -> list[list[Node]]:
    return [nodes[at + r * period : at + (r + 1) * period] for r in range(rounds)]


def reroll(module: Module) -> None:
    """Reroll every function and program. New functions are placed before those that call them."""
    known: dict[tuple[object, ...], str] = {}
    graphs = list(module.graphs())
    before = dict(module.functions)
    for graph in graphs:
        _reroll_graph(module, graph, known)
    fresh = {n: g for n, g in module.functions.items() if n not in before}
    module.functions = {**fresh, **before}
