"""IR functions and programs as Python functions: one line per operator, states updated in place.

Kinds of values: "tensor"; "number", a Python number known on the host; "cache", a session's AppendCache; "rotary", cos and
sin of the call's positions, which only fused operators read.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import sympy

from pangu_compile.ir import DType, Graph, IRError, Module, Node, Program, Value

from . import primitives
from .operators import CACHES, HOST_SLOTS, OperatorWriter, is_fused, result_names, slot_names, updated_slots

ANNOTATIONS = {"tensor": "Tensor", "number": "int", "cache": "AppendCache", "rotary": "Tensor"}
WIDTH = 116


@dataclass
class Written:
    """A Python function: source lines of the body, kinds of parameters and results, and which parameter a result is."""

    name: str
    parameters: list[tuple[str, str]]
    body: list[str]
    returns: list[str]
    result_kinds: list[str]
    aliases: list[int | None]
    steps: list[str]
    doc: str = ""

    @property
    def annotation(self) -> str:
        kinds = [ANNOTATIONS[k] for k in self.result_kinds]
        return kinds[0] if len(kinds) == 1 else f"tuple[{', '.join(kinds)}]" if kinds else "None"

    @property
    def annotated(self) -> list[tuple[str, str]]:
        return [(name, ANNOTATIONS[kind]) for name, kind in self.parameters]


@dataclass
class Programs:
    """All functions, callees first; the entry points; the rotary tables that they read."""

    functions: list[Written]
    entries: list[Written]
    rotary: list[tuple[str, int, float]]


def identifier(name: str) -> str:
    """A Python name for an IR value."""
    text = re.sub(r"\W", "_", name)
    taken = not text.isidentifier() or keyword.iskeyword(text) or text in ("pb", "po", "torch", "F", "w", "s")
    return f"v_{text}" if taken else text


def wrapped(head: str, items: Sequence[str], tail: str = ")") -> list[str]:
    """`head item, item, .. tail` on one line if it fits, else on several, indented."""
    line = head + ", ".join(items) + tail
    if len(line) <= WIDTH:
        return [line]
    lines, current = [head], ""
    for item in items:
        if current and len(current) + len(item) + 6 > WIDTH:
            lines.append("    " + current.rstrip())
            current = ""
        current += f"{item}, "
    return [*lines, "    " + current.rstrip(), tail]


def _symbols(node: Node) -> set[str]:
    """Sizes that a primitive operator's attributes name."""
    found: set[str] = set()
    for value in node.attrs.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, sympy.Expr):
                found |= {s.name for s in item.free_symbols}
    return found


@dataclass
class FunctionWriter:
    """Writes a module's functions as its programs call them."""

    module: Module
    operators: OperatorWriter
    written: dict[str, Written] = field(default_factory=dict)
    tables: dict[tuple[int, float], str] = field(default_factory=dict)

    def programs(self) -> Programs:
        entries = [self._program(name, program) for name, program in self.module.programs.items()]
        return Programs(list(self.written.values()), entries, [(name, *key) for key, name in self.tables.items()])

    def function(self, name: str, kinds: list[str]) -> Written:
        """The function of that name for operands of these kinds. IRError where two calls disagree."""
        if name not in self.written:
            graph = self.module.functions[name]
            body = _Body(self, graph, kinds)
            body.run()
            returns = [body.text[v] for v in graph.outputs]
            made = Written(
                identifier(name), [(body.text[p], k) for p, k in zip(graph.params, kinds, strict=True)], body.lines, returns,
                [body.kinds[v] for v in graph.outputs], [body.alias.get(v) for v in graph.outputs], body.steps, body.doc(),
            )  # fmt: skip
            self.written[name] = made
        if [k for _, k in self.written[name].parameters] != kinds:
            raise IRError(f"function {name} is called with operands of different kinds")
        return self.written[name]

    def table(self, node: Node) -> str:
        key = (int(node.attrs["dim"]), float(node.attrs["theta"]))
        return self.tables.setdefault(key, f"ROTARY_{len(self.tables)}")

    def _program(self, name: str, program: Program) -> Written:
        graph, kinds = program.graph, []
        for value, role in zip(graph.params, program.params, strict=True):
            append = role.kind == "state" and self.module.states[role.key].rows is None
            kinds.append("cache" if append else "number" if _is_host(value) else "tensor")
        body = _Body(self, graph, kinds)
        for value, role in zip(graph.params, program.params, strict=True):
            if role.kind == "state":
                body.text[value] = f's["{role.key}"]' if kinds[graph.params.index(value)] == "tensor" else f's.cache("{role.key}")'
            elif role.kind != "input":
                body.text[value] = f'w["{role.key}"]'
        body.run()
        outputs = list(zip(graph.outputs, program.outputs, strict=True))
        for value, role in outputs:
            if role.kind == "state":
                body.write_state(value, role.key, program)
        inputs = [(body.text[v], k) for v, k, r in zip(graph.params, kinds, program.params, strict=True) if r.kind == "input"]
        results = [v for v, role in outputs if role.kind == "output"]
        return Written(
            identifier(name), inputs, body.lines, [body.text[v] for v in results], [body.kinds[v] for v in results],
            [None for _ in results], body.steps, f"Program {name}.",
        )  # fmt: skip


def _is_host(value: Value) -> bool:
    return value.type.rank == 0 and value.type.dtype is DType.i64


class _Body:
    """The lines of one function."""

    def __init__(self, writer: FunctionWriter, graph: Graph, kinds: list[str]):
        self.writer, self.graph = writer, graph
        self.kinds: dict[Value, str] = dict(zip(graph.params, kinds, strict=True))
        self.text: dict[Value, str] = {v: identifier(v.name) for v in graph.params}
        self.alias: dict[Value, int] = {v: i for i, v in enumerate(graph.params)}
        self.lines: list[str] = []
        self.steps: list[str] = []
        self.last = {v: i for i, node in enumerate(graph.nodes) for v in node.inputs}
        self.last.update((v, len(graph.nodes)) for v in graph.outputs)
        self.position = 0

    def run(self) -> None:
        self._bind_sizes()
        for position, node in enumerate(self.graph.nodes):
            self.position = position
            for v in node.outputs:
                self.text[v] = identifier(v.name)
            if node.op == "call":
                self._call(node)
            elif is_fused(node.op):
                self._fused(node)
            else:
                self._primitive(node)

    def doc(self) -> str:
        """Where the function comes from: the common start of its operators' module paths."""
        paths = [node.loc for node in self.graph.nodes if node.loc and node.loc != "next"]
        head = paths[0].split(".") if paths else []
        for path in paths:
            parts = path.split(".")
            head = [a for i, a in enumerate(head) if head[: i + 1] == parts[: i + 1]]
        return f"As traced from {'.'.join(head)}." if head else f"IR function {self.graph.name}."

    def _bind_sizes(self) -> None:
        wanted = sorted({s for node in self.graph.nodes if node.op != "call" and not is_fused(node.op) for s in _symbols(node)})
        for name in wanted:
            self.lines.append(f"{name} = {self._size(name)}")

    def _size(self, name: str) -> str:
        for v in self.graph.params:
            for axis, d in enumerate(v.type.shape):
                if isinstance(d, sympy.Symbol) and d.name == name:
                    return f"{self.text[v]}.length" if self.kinds[v] == "cache" else f"{self.text[v]}.shape[{axis}]"
        raise IRError(f"{self.graph.name}: no parameter tells the size {name}")

    # Operands, as the reader wants them.

    def tensor(self, v: Value) -> str:
        kind = self.kinds[v]
        if kind == "rotary":
            raise IRError(f"{self.graph.name}: a rotary table may be read by fused operators only")
        if kind == "number":
            return f"torch.tensor({self.text[v]})"
        return f"{self.text[v]}.rows()" if kind == "cache" else self.text[v]

    def number(self, v: Value) -> str:
        return self.text[v] if self.kinds[v] == "number" else f"int({self.text[v]})"

    def cache(self, v: Value) -> str:
        return self.text[v] if self.kinds[v] == "cache" else f"pb.as_cache({self.tensor(v)})"

    def kept(self, v: Value, text: str) -> str:
        """An operand that is updated in place: a copy where the old value is read later."""
        if self.last.get(v, -1) <= self.position:
            return text
        if self.kinds[v] == "cache":
            raise IRError(f"{self.graph.name}: the cache %{v.name} is read again after it was appended to")
        return f"{text}.clone()"

    def like(self) -> str:
        """Name of some tensor on the device."""
        for v in self.graph.params:
            if self.kinds[v] == "tensor":
                return self.text[v]
        raise IRError(f"{self.graph.name}: no tensor among the parameters")

    # Operators.

    def _call(self, node: Node) -> None:
        callee = self.writer.module.functions[node.attrs["function"]]
        kinds = []
        for p, v in zip(callee.params, node.inputs, strict=True):
            kinds.append("number" if _is_host(p) else "tensor" if self.kinds[v] == "number" else self.kinds[v])
        function = self.writer.function(node.attrs["function"], kinds)
        changed = {a for a in function.aliases if a is not None}
        operands = []
        for i, (v, kind) in enumerate(zip(node.inputs, kinds, strict=True)):
            text = {"number": self.number, "tensor": self.tensor}.get(kind, lambda u: self.text[u])(v)
            operands.append(self.kept(v, text) if i in changed else text)
        for v, kind, alias in zip(node.outputs, function.result_kinds, function.aliases, strict=True):
            self.kinds[v] = kind
            self._same(v, node.inputs[alias] if alias is not None else None)
        self._assign(node, f"{function.name}(", operands)
        self.steps.append(function.name)

    def _same(self, result: Value, operand: Value | None) -> None:
        """The result is the operand, updated in place."""
        if operand is not None and operand in self.alias and self.last.get(operand, -1) <= self.position:
            self.alias[result] = self.alias[operand]

    def _fused(self, node: Node) -> None:
        name, updates = self.writer.operators.function(node), updated_slots(node)
        by_slot = dict(zip(slot_names(node), node.inputs, strict=True))
        operands = []
        for slot, v in by_slot.items():
            if slot in HOST_SLOTS:
                text = self.number(v)
            elif slot in CACHES.get(node.op, ()):
                text = self.cache(v)
            else:
                text = self.text[v] if self.kinds[v] == "rotary" else self.tensor(v)
            operands.append(self.kept(v, text) if slot in updates.values() else text)
        for result, v in zip(result_names(node), node.outputs, strict=True):
            slot = updates.get(result, "")
            self.kinds[v] = "cache" if slot in CACHES.get(node.op, ()) else "tensor"
            self._same(v, by_slot.get(slot))
        self._assign(node, f"po.{name}(", operands)
        self.steps.append(name)

    def _primitive(self, node: Node) -> None:
        self.steps.append(node.op)
        if node.op == "rotary_table":
            self.kinds[node.output] = "rotary"
            self._assign(node, f"{self.writer.table(node)}.rows(", [self.tensor(node.inputs[0])])
            return
        numbers = [self.kinds[v] == "number" for v in node.inputs]
        operands = [self.text[v] if n else self.tensor(v) for v, n in zip(node.inputs, numbers, strict=True)]
        text = primitives.expression(node, operands, numbers, self.like())
        for v in node.outputs:
            self.kinds[v] = "number" if primitives.is_number(node, numbers) else "tensor"
        self._assign(node, text, None)

    def _assign(self, node: Node, text: str, operands: Sequence[str] | None) -> None:
        left = ", ".join(self.text[v] for v in node.outputs)
        lines = [f"{left} = {text}"] if operands is None else wrapped(f"{left} = {text}", operands)
        if node.loc and len(lines[0]) + len(node.loc) < WIDTH:
            lines[0] += f"  # {node.loc}"
        self.lines += lines

    def write_state(self, value: Value, key: str, program: Program) -> None:
        """Write a new state that no operator has updated in place."""
        alias = self.alias.get(value)
        if alias is not None and program.params[alias].kind == "state" and program.params[alias].key == key:
            return
        method = "replace" if self.writer.module.states[key].rows is None else "copy_"
        target = f's.cache("{key}")' if method == "replace" else f's["{key}"]'
        self.lines.append(f"{target}.{method}({self.tensor(value)})")
