"""The SSA graph: values, nodes, functions, programs.

A `Graph` is a function: parameters, nodes in execution order, outputs. A `Module` holds the outlined functions and the
programs; a `Program` says what each parameter and output of its graph means (input, weight, state).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .types import Dim, TensorType


class Value:
    """One SSA value. Identity is the object; the name is for people and for the text form."""

    __slots__ = ("index", "name", "producer", "type")

    def __init__(self, name: str, type: TensorType, producer: Node | None = None, index: int = 0):
        self.name, self.type, self.producer, self.index = name, type, producer, index

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """One operator application. `loc` is the source module path that it was traced from."""

    __slots__ = ("attrs", "inputs", "loc", "op", "outputs")

    def __init__(self, op: str, inputs: Iterable[Value], attrs: dict[str, Any] | None = None, loc: str = ""):
        self.op, self.inputs, self.attrs, self.loc = op, list(inputs), dict(attrs or {}), loc
        self.outputs: list[Value] = []

    @property
    def output(self) -> Value:
        assert len(self.outputs) == 1
        return self.outputs[0]

    @property
    def dims(self) -> dict[str, Dim]:
        """Of a call: the sizes that differ inside, the callee's symbol -> expression in the caller's symbols."""
        return dict(self.attrs.get("dims", ()))

    def __repr__(self) -> str:
        outs = ", ".join(f"%{v.name}" for v in self.outputs)
        return f"{outs} = {self.op}({', '.join('%' + v.name for v in self.inputs)}) {self.attrs}"


class Graph:
    """A function. Node order is execution order; every value is defined before it is used."""

    def __init__(self, name: str):
        self.name = name
        self.params: list[Value] = []
        self.nodes: list[Node] = []
        self.outputs: list[Value] = []

    def values(self) -> Iterator[Value]:
        yield from self.params
        for node in self.nodes:
            yield from node.outputs

    def uses(self) -> Counter[Value]:
        """How often each value is read, graph outputs included."""
        counts: Counter[Value] = Counter(v for node in self.nodes for v in node.inputs)
        counts.update(self.outputs)
        return counts

    def users(self) -> dict[Value, list[Node]]:
        table: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for v in dict.fromkeys(node.inputs):
                table.setdefault(v, []).append(node)
        return table

    def replace_uses(self, mapping: dict[Value, Value]) -> None:
        """Read the mapped value wherever the key was read (chains are followed)."""

        def final(v: Value) -> Value:
            while v in mapping:
                v = mapping[v]
            return v

        for node in self.nodes:
            node.inputs = [final(v) for v in node.inputs]
        self.outputs = [final(v) for v in self.outputs]

    def rename(self) -> None:
        """Unique, stable names: parameters keep theirs, the rest are numbered in order."""
        taken = {v.name for v in self.params}
        count = 0
        for node in self.nodes:
            for v in node.outputs:
                while f"v{count}" in taken:
                    count += 1
                v.name = f"v{count}"
                count += 1


@dataclass(frozen=True)
class Role:
    """Meaning of a program's parameter or output: kind is input, weight, constant, state or output."""

    kind: str
    key: str


@dataclass(frozen=True)
class StateInfo:
    """A session state. `rows` None: an append cache of one row per position; else the ring length."""

    name: str
    dtype: str
    width: int
    rows: int | None
    owner: int


@dataclass
class Program:
    """An entry point. `dims`: its symbols in ABI order; new states come back as outputs of kind `state`.

    `limits`: the largest sizes of symbols that it is called with, where they are less than the module's.
    """

    graph: Graph
    params: list[Role]
    outputs: list[Role]
    dims: tuple[str, ...]
    limits: dict[str, int] = field(default_factory=dict)


@dataclass
class Module:
    """Everything that is compiled together: programs share weights, states and outlined functions."""

    programs: dict[str, Program] = field(default_factory=dict)
    functions: dict[str, Graph] = field(default_factory=dict)
    weights: dict[str, TensorType] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    states: dict[str, StateInfo] = field(default_factory=dict)
    folded: dict[str, Folded] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    def graphs(self) -> Iterator[Graph]:
        yield from self.functions.values()
        for program in self.programs.values():
            yield program.graph


@dataclass
class Folded:
    """A weight that is computed once at build time: `graph` maps the named source weights to the value."""

    graph: Graph
    sources: list[str]
