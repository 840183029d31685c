"""Memory of a session in which kernels keep what they derive from the rows of an append state: codes of indexer keys.

It is no state: nothing is lost with it, it is neither saved nor restored, and a program that is run without it computes the same.
A kernel finds it by the state that it belongs to; its first bytes say how many rows it covers (codegen/cpu/kernels/pangu_codes.h).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pangu_compile.ir import Graph, StateInfo, Value
from pangu_compile.ir.slots import named

from .access import contiguous_alias
from .schedule import Schedule
from .workspace import CODE_BLOCK

if TYPE_CHECKING:
    from .plan import FunctionPlan, ProgramPlan


@dataclass(frozen=True)
class Derived:
    """`head_bytes`, and `block_bytes` for every `block_rows` rows of the state number `state`."""

    state: int
    head_bytes: int
    block_rows: int
    block_bytes: int


def key_codes(
    functions: Mapping[str, FunctionPlan], programs: Mapping[str, ProgramPlan], states: Sequence[StateInfo]
) -> list[Derived]:
    """Of every append state whose rows an indexer of the programs scores."""
    widths: dict[str, int] = {}
    for program in programs.values():
        graph = program.function.graph
        roles = dict(zip(graph.params, program.params, strict=True))
        scored = _scored(functions, graph, program.function.schedule)
        widths |= {roles[value].key: width for value, width in scored if roles[value].kind == "state"}
    columns = {name: -(-width // 16) * 16 for name, width in widths.items()}
    return [
        Derived(number, 8 * columns[state.name], CODE_BLOCK, CODE_BLOCK * (2 * columns[state.name] + 16))
        for number, state in enumerate(states)
        if state.name in columns and state.rows is None
    ]


def _scored(functions: Mapping[str, FunctionPlan], graph: Graph, schedule: Schedule) -> Iterator[tuple[Value, int]]:
    """Parameters of a graph that an indexer in it, or in what it calls, scores; with the width of a key."""
    for node in graph.nodes:
        if node.op == "dsa_attention":
            keys = named(node.attrs, node.inputs)["index_cache"]
            yield from _params([(keys, int(keys.type.shape[1]))], graph, schedule)
        elif node.op == "call":
            callee = functions[node.attrs["function"]]
            inner = dict(_scored(functions, callee.graph, callee.schedule))
            given = zip(callee.graph.params, node.inputs, strict=True)
            yield from _params([(value, inner[param]) for param, value in given if param in inner], graph, schedule)


def _params(values: Iterable[tuple[Value, int]], graph: Graph, schedule: Schedule) -> Iterator[tuple[Value, int]]:
    """The parameters whose memory the values are, as they came or with rows appended in place."""
    for value, width in values:
        view = contiguous_alias(value, schedule.is_buffer)
        buffer = None if view is None else schedule.in_place.get(view.buffer, view.buffer)
        if buffer is not None and buffer in graph.params:
            yield buffer, width
