"""Patterns as data: a rule is what the graph looks like before, a guard, and what replaces it.

A pattern is written like the text form, without types:

    %sum = reduce_sum(%square) {axes=@axes}
    %shifted = add(%sum, #eps)
    return %shifted

`%name` that no line defines matches any value (the same one everywhere); `#name` matches a rank-0 constant and captures
its number, `#1.5` matches that number; `{key=@name}` captures an attribute, `{key=literal}` requires it, and attributes
that are not mentioned are free. Operands of commutative operators match in either order.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pangu_compile.ir import Builder, Graph, IRError, Module, Node, Value, opdef

from .canonicalise import dead_code
from .order import sort_nodes

COMMUTATIVE = {"add", "mul", "maximum", "minimum", "logical_and", "logical_or"}
CHEAP = ("pointwise", "view", "gather", "reduce")  # kinds whose results may be computed again where they are integers
SHARED = {"constant", "iota", "size", "reshape", "transpose", "slice", "broadcast"}

_LINE = re.compile(r"^(?P<outs>%\w+(?:, %\w+)*) = (?P<op>\w+)\((?P<ins>[^)]*)\)(?: \{(?P<attrs>.*)\})?$")


@dataclass(frozen=True)
class Term:
    """One pattern node: results by name (None: unused), operator, operands, attributes (values or "@name")."""

    outs: tuple[str, ...]
    op: str
    ins: tuple[str, ...]
    attrs: tuple[tuple[str, Any], ...]


def _attributes(text: str | None) -> tuple[tuple[str, Any], ...]:
    if not text:
        return ()
    pairs = re.findall(r"(\w+)=(@\w+|\([^)]*\)|[^,]+)", text)
    return tuple((k, v if v.startswith("@") else ast.literal_eval(v)) for k, v in pairs)


class Pattern:
    """A parsed pattern; `roots` are the returned names, the first of which starts the search."""

    def __init__(self, text: str):
        lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
        self.terms: list[Term] = []
        self.defined: dict[str, tuple[Term, int]] = {}
        for line in lines[:-1]:
            found = _LINE.match(line)
            if found is None:
                raise IRError(f"pattern: cannot read {line!r}")
            outs = tuple(name[1:] for name in found["outs"].split(", "))
            ins = tuple(part.strip() for part in found["ins"].split(",") if part.strip())
            term = Term(outs, found["op"], ins, _attributes(found["attrs"]))
            self.terms.append(term)
            for index, name in enumerate(outs):
                if name in self.defined:
                    raise IRError(f"pattern: %{name} is defined twice")
                self.defined[name] = (term, index)
        if not lines[-1].startswith("return "):
            raise IRError("pattern: the last line must return the roots")
        self.roots = tuple(name.strip()[1:] for name in lines[-1][7:].split(","))
        if any(root not in self.defined for root in self.roots):
            raise IRError(f"pattern: a root among {self.roots} is not defined")

    @property
    def root_op(self) -> str:
        return self.defined[self.roots[0]][0].op


@dataclass
class Match:
    """What a pattern matched: values and numbers by name, captured attributes, and the nodes that it covers."""

    values: dict[str, Value] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()

    def __getitem__(self, name: str) -> Value:
        return self.values[name]


class Matcher:
    """Finds patterns in one graph (as it is now: make a new one after a rewrite)."""

    def __init__(self, graph: Graph):
        self.users = graph.users()
        self.outputs = set(graph.outputs)

    def match(self, pattern: Pattern, root: Value) -> Match | None:
        """The first way that the pattern ends in `root` and hides nothing that somebody else reads."""
        for found in self._bind(pattern, f"%{pattern.roots[0]}", root, Match()):
            for whole in self._extend(pattern, found):
                if self._closed(pattern, whole):
                    return whole
        return None

    def _bind(self, pattern: Pattern, term: str, value: Value, m: Match) -> Iterator[Match]:
        name = term[1:]
        if term[0] == "#":
            yield from self._number(name, value, m)
            return
        if name in m.values:
            if m.values[name] is value:
                yield m
            return
        if name not in pattern.defined:
            yield Match({**m.values, name: value}, m.numbers, m.attrs, m.nodes)
            return
        spec, index = pattern.defined[name]
        node = value.producer
        if node is None or node.op != spec.op or value.index != index or len(node.inputs) != len(spec.ins):
            return
        attrs = dict(m.attrs)
        for key, wanted in spec.attrs:
            if key not in node.attrs:
                return
            if isinstance(wanted, str) and wanted.startswith("@"):
                if wanted[1:] in attrs and attrs[wanted[1:]] != node.attrs[key]:
                    return
                attrs[wanted[1:]] = node.attrs[key]
            elif node.attrs[key] != wanted:
                return
        values = {**m.values, **{out: node.outputs[i] for i, out in enumerate(spec.outs)}}
        start = Match(values, m.numbers, attrs, (*m.nodes, node))
        orders = [spec.ins]
        if spec.op in COMMUTATIVE and spec.ins[0] != spec.ins[1]:
            orders.append(spec.ins[::-1])
        for order in orders:
            yield from self._operands(pattern, order, node.inputs, start)

    def _operands(self, pattern: Pattern, terms: Sequence[str], values: Sequence[Value], m: Match) -> Iterator[Match]:
        if not terms:
            yield m
            return
        for found in self._bind(pattern, terms[0], values[0], m):
            yield from self._operands(pattern, terms[1:], values[1:], found)

    def _number(self, name: str, value: Value, m: Match) -> Iterator[Match]:
        node = value.producer
        if node is None or node.op != "constant":
            return
        number = node.attrs["value"]
        try:
            wanted: float | None = float(name)
        except ValueError:
            wanted = m.numbers.get(name)
        if wanted is None:
            yield Match(m.values, {**m.numbers, name: number}, m.attrs, m.nodes)
        elif wanted == number:
            yield m

    def _extend(self, pattern: Pattern, m: Match) -> Iterator[Match]:
        """Bind the roots that the first does not reach, forwards from the values that are bound."""
        missing = [root for root in pattern.roots if root not in m.values]
        if not missing:
            yield m
            return
        for term in pattern.terms:
            if term.outs[0] in m.values:
                continue
            known = next((n[1:] for n in term.ins if n[0] == "%" and n[1:] in m.values), None)
            if known is None:
                continue
            for user in self.users.get(m.values[known], []):
                if user.op == term.op:
                    for found in self._bind(pattern, f"%{term.outs[0]}", user.outputs[0], m):
                        yield from self._extend(pattern, found)
            return

    def _closed(self, pattern: Pattern, m: Match) -> bool:
        """Nothing inside is read outside, but for views, constants, scalars and index arithmetic: they cost nothing to keep."""
        covered = set(map(id, m.nodes))
        roots = {m.values[r] for r in pattern.roots}
        for node in m.nodes:
            for value in node.outputs:
                kept = node.op in SHARED or value.type.rank == 0
                if value in roots or kept or (not value.type.dtype.is_float and opdef(node.op).kind in CHEAP):
                    continue
                if value in self.outputs or any(id(user) not in covered for user in self.users.get(value, [])):
                    return False
        return True


@dataclass(frozen=True)
class Rule:
    """before: alternatives, tried in order; after(builder, match) gives the roots' replacements, or None to refuse."""

    name: str
    before: tuple[Pattern, ...]
    after: Callable[[Builder, Match], Sequence[Value] | None]


def rule(name: str, *texts: str) -> Callable[[Callable[[Builder, Match], Sequence[Value] | None]], Rule]:
    """Decorator: the function is the rule's `after`."""
    return lambda after: Rule(name, tuple(Pattern(text) for text in texts), after)


def record_provenance(module: Module, step: str, graph: Graph, made: Node, consumed: Sequence[Node]) -> None:
    """For the reports: what a fusion consumed."""
    counts = Counter(n.op for n in consumed if n.op not in ("constant",))
    entry = {"pass": step, "function": graph.name, "op": made.op, "consumed": dict(sorted(counts.items())), "loc": made.loc}
    module.info.setdefault("provenance", []).append(entry)


def _sweep(module: Module, graph: Graph, rules: Sequence[Rule], step: str) -> bool:
    """One pass over the graph from its end; True where something was rewritten."""
    matcher = Matcher(graph)
    taken: set[int] = set()
    replaced: dict[Value, Value] = {}
    fresh: dict[int, list[Node]] = {}
    for node in reversed(graph.nodes):
        if id(node) in taken:
            continue
        for candidate in rules:
            done = _try(candidate, node, matcher, taken)
            if done is None:
                continue
            m, pattern, values, nodes = done
            for root, value in zip(pattern.roots, values, strict=True):
                if not value.type.same(m[root].type):
                    raise IRError(f"rule {candidate.name}: {m[root]!r} replaced by {value!r}")
                replaced[m[root]] = value
            taken.update(id(n) for n in m.nodes if n.op not in SHARED)
            fresh[id(node)] = nodes
            if nodes:
                made = next((n for n in reversed(nodes) if n.op not in SHARED), nodes[-1])
                record_provenance(module, step, graph, made, m.nodes)
            break
    if not replaced:
        return False
    graph.nodes = [n for old in graph.nodes for n in (*fresh.get(id(old), ()), old)]
    graph.replace_uses(replaced)
    sort_nodes(graph)
    dead_code(graph)
    return True


def _try(
    candidate: Rule, node: Node, matcher: Matcher, taken: set[int]
) -> tuple[Match, Pattern, Sequence[Value], list[Node]] | None:
    for pattern in candidate.before:
        if pattern.root_op != node.op:
            continue
        root = node.outputs[pattern.defined[pattern.roots[0]][1]]
        m = matcher.match(pattern, root)
        if m is None or any(id(n) in taken for n in m.nodes):
            continue
        nodes: list[Node] = []
        values = candidate.after(Builder(nodes, node.loc), m)
        if values is not None:
            return m, pattern, values, nodes
    return None


def apply_rules(module: Module, rules: Sequence[Rule], step: str) -> None:
    """Apply rules everywhere until none fires. `step` names the pass in the reports."""
    for graph in module.graphs():
        while _sweep(module, graph, rules, step):
            pass
