"""Collects the ONNX nodes of one function or graph: fresh names, shared constants, symbolic sizes from operand shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sympy
from onnx import NodeProto, helper, numpy_helper

from pangu_compile.ir import IRError, TensorType, Value, dim, symbol


class Scope:
    """One body under construction. Sizes are int64 vectors of one element unless said otherwise.

    names: IR value -> ONNX name. Symbols of the parameters' shapes are read with Shape when something needs them.
    """

    def __init__(self, what: str, params: Iterable[tuple[Value, str]]):
        self.what = what
        self._body: list[NodeProto] = []
        self._constant_nodes: list[NodeProto] = []
        self.names: dict[Value, str] = dict(params)
        self.taken = set(self.names.values())
        self.label = ""
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._sizes: dict[Any, str] = {}
        self._sources = solve_symbols([(name, v.type) for v, name in self.names.items()])
        self._node_names: dict[str, int] = {}

    @property
    def nodes(self) -> list[NodeProto]:
        """All nodes in order: the constants, then the rest."""
        return [*self._constant_nodes, *self._body]

    def fresh(self, hint: str) -> str:
        """A name that is not in use."""
        name, count = hint, 1
        while name in self.taken:
            name, count = f"{hint}_{count}", count + 1
        self.taken.add(name)
        return name

    def node_name(self, op: str) -> str:
        """A name that no other node has, with the place that the node comes from."""
        base = name = f"{self.label}/{op}" if self.label else op
        count = self._node_names.get(base, 0)
        while name in self._node_names:
            count += 1
            name = f"{base}_{count + 1}"
        self._node_names[base], self._node_names[name] = count, 0
        return name

    def emit(self, op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attrs: Any) -> None:
        """Append a node with given result names."""
        self._body.append(helper.make_node(op, inputs, outputs, name=self.node_name(op), domain=domain or None, **attrs))

    def op(self, op: str, *inputs: str, **attrs: Any) -> str:
        """Append a node with one result of a fresh name, which is returned."""
        out = self.fresh(op.lower())
        self.emit(op, inputs, [out], **attrs)
        return out

    def constant(self, value: Any, dtype: Any) -> str:
        """Name of a constant tensor; equal ones are shared."""
        array = np.asarray(value, dtype)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.fresh("const")
            tensor = numpy_helper.from_array(array)
            node = helper.make_node("Constant", [], [self._constants[key]], name=self._constants[key], value=tensor)
            self._constant_nodes.append(node)
        return self._constants[key]

    def vector(self, values: Iterable[int]) -> str:
        return self.constant(list(values), np.int64)

    def size(self, d: Any) -> str:
        """An int64 vector of one element that holds a dimension."""
        d = dim(d)
        if isinstance(d, int):
            return self.vector([d])
        if d not in self._sizes:
            self._sizes[d] = self._size(d)
        return self._sizes[d]

    def _size(self, d: sympy.Expr) -> str:
        if d.is_Symbol:
            return self._read(d)
        numerator, denominator = d.as_numer_denom()
        if denominator != 1:
            return self.op("Div", self.size(numerator), self.size(denominator))
        if isinstance(d, sympy.floor):
            return self.size(d.args[0])
        if d.is_Pow and d.exp.is_Integer:
            return self._fold("Mul", [d.base] * int(d.exp))
        for kind, op in ((sympy.Add, "Add"), (sympy.Mul, "Mul")):
            if isinstance(d, kind):
                return self._fold(op, list(d.args))
        for kind, op in ((sympy.Min, "Min"), (sympy.Max, "Max")):
            if isinstance(d, kind):
                return self.op(op, *(self.size(a) for a in d.args))
        raise IRError(f"{self.what}: size {d} has no ONNX form")

    def _fold(self, op: str, terms: list[Any]) -> str:
        total = self.size(terms[0])
        for term in terms[1:]:
            total = self.op(op, total, self.size(term))
        return total

    def _read(self, s: sympy.Symbol) -> str:
        if s.name not in self._sources:
            raise IRError(f"{self.what}: size {s} follows from no operand's shape")
        source = self._sources[s.name]
        if isinstance(source, tuple):
            name, axis = source
            return self.op("Shape", name, start=axis, end=axis + 1)
        return self.size(source)

    def scalar(self, d: Any) -> str:
        """A dimension as a rank-0 int64."""
        d = dim(d)
        return self.constant(d, np.int64) if isinstance(d, int) else self.op("Squeeze", self.size(d))

    def shape(self, dims: Sequence[Any]) -> str:
        """A whole shape as an int64 vector."""
        dims = [dim(d) for d in dims]
        if all(isinstance(d, int) for d in dims):
            return self.vector(dims)
        if len(dims) == 1:
            return self.size(dims[0])
        return self.op("Concat", *(self.size(d) for d in dims), axis=0)


def solve_symbols(params: Sequence[tuple[str, TensorType]]) -> dict[str, Any]:
    """Symbol -> (parameter name, axis) that shows it, or an expression in a marker symbol of such an axis.

    An axis S + T of one operand and an axis T of another give S: expressions are solved one unknown at a time.
    """
    sources: dict[str, Any] = {}
    open_axes: list[tuple[str, int, sympy.Expr]] = []
    for name, type_ in params:
        for axis, d in enumerate(type_.shape):
            if isinstance(d, int):
                continue
            if d.is_Symbol:
                sources.setdefault(d.name, (name, axis))
            else:
                open_axes.append((name, axis, d))
    progress = True
    while progress:
        progress = False
        for name, axis, d in open_axes:
            unknown = [s for s in d.free_symbols if s.name not in sources]
            if len(unknown) == 1 and d.is_polynomial(unknown[0]) and sympy.degree(d, unknown[0]) == 1:
                marker = symbol(f"{name}#{axis}")
                sources[marker.name] = (name, axis)
                sources[unknown[0].name] = dim(sympy.solve(d - marker, unknown[0])[0])
                progress = True
    return sources
