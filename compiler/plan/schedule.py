"""Which values get memory, which are computed inline, and the order of the kernels.

Pointwise operators, gathers and views are inlined into the loop of whoever reads them; a value gets a buffer when it
is read more than once, when its reader needs memory (a matrix product, a selection, a call), or when inlining it
would compute it again for every element of a broadcast. State updates happen in place wherever nothing can see it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pangu_compile.ir import Graph, Node, Value, opdef
from pangu_compile.ir.slots import named
from pangu_compile.ir.types import Dim, same_dim, same_shape

from .access import affine, contiguous_alias, split_groups
from .workspace import workspace_bytes

CHEAP = {"constant", "size", "iota"}
VIEWS = {"reshape", "transpose", "slice", "broadcast"}
ALWAYS = {
    "matmul",
    "softmax",
    "cumsum",
    "topk",
    "sort",
    "argmax",
    "expert_linear",
    "reduce_sum",
    "reduce_max",
    "reduce_min",
    "call",
}


@dataclass
class Kernel:
    """One step of a function: `root` is computed into its outputs' buffers, reading what was inlined.

    kind: operator family that codegen renders ("pointwise", "concat", "append", "put_rows", "reduce", "fused", ..).
    workspace: bytes of scratch that the kernel alone uses while it runs.
    """

    kind: str
    root: Node
    outputs: list[Value]
    reads: list[Value] = field(default_factory=list)
    workspace: Dim = 0


@dataclass
class Schedule:
    """Kernels in order; `buffers` have memory of their own; `in_place` maps a result to the state it updates."""

    graph: Graph
    kernels: list[Kernel]
    buffers: set[Value]
    in_place: dict[Value, Value]

    def is_buffer(self, value: Value) -> bool:
        return value in self.buffers or value in self.in_place or value.producer is None


def is_fused(node: Node) -> bool:
    return node.op != "call" and opdef(node.op).kind == "fused"


def updated_operand(result: Value) -> Value | None:
    """The operand that a fused operator's result replaces (OpDef.updates), or None."""
    node = result.producer
    if node is None or not is_fused(node):
        return None
    updates = opdef(node.op).updates
    name = node.attrs["results"][result.index] if "results" in node.attrs else ""
    return named(node.attrs, node.inputs)[updates[name]] if name in updates else None


class Scheduler:
    """Decides for one graph. `states`: parameters that are session states, with the result that replaces each."""

    def __init__(self, graph: Graph, states: dict[Value, Value]):
        self.graph = graph
        self.uses: Counter[Value] = graph.uses()
        self.users = graph.users()
        self.position = {node: i for i, node in enumerate(graph.nodes)}
        self.buffers: set[Value] = set()
        self.in_place: dict[Value, Value] = {}
        for param, result in states.items():
            if self._updates_in_place(param, result):
                self.in_place[result] = param

    def is_buffer(self, value: Value) -> bool:
        return value in self.buffers or value in self.in_place or value.producer is None

    def _updates_in_place(self, param: Value, result: Value) -> bool:
        node = result.producer
        if node is None:
            return result is param
        if node.op == "call":
            return True  # the callee updates it; make_plan checks that it does
        if is_fused(node):
            return updated_operand(result) is param and self._may_overwrite(param, result, node)
        if node.op == "concat":
            # Rows are appended after those that exist: readers of the old rows see no change.
            return node.attrs["axis"] == 0 and len(node.inputs) == 2 and node.inputs[0] is param
        # A replaced row is a change, so nothing may read the new value here (the write is moved to the end).
        return node.op == "put_rows" and node.inputs[0] is param and self.uses[result] == 1

    def _may_overwrite(self, param: Value, result: Value, node: Node) -> bool:
        """Appended rows lie after those that others read. A ring's rows are replaced: nobody may read the old ones later."""
        if not same_dim(param.type.shape[0], result.type.shape[0]):
            return True
        if node.inputs.count(param) != 1 or param in self.graph.outputs:
            return False
        others = [user for user in self.users[param] if user is not node]
        return all((is_fused(user) or user.op in ALWAYS) and self.position[user] < self.position[node] for user in others)

    def run(self) -> Schedule:
        for node in self.graph.nodes:
            self._visit(node)
        for value in self.graph.outputs:
            if value not in self.in_place and value.producer is not None:
                self.buffers.add(value)
        kernels = [k for node in self.graph.nodes if (k := self._kernel(node)) is not None]
        late = [k for k in kernels if k.kind == "put_rows" and k.outputs[0] in self.in_place]
        ordered = [k for k in kernels if k not in late] + late
        schedule = Schedule(self.graph, ordered, self.buffers, self.in_place)
        for kernel in ordered:
            kernel.reads = self._reads(kernel)
        return schedule

    # Which values need memory.

    def _visit(self, node: Node) -> None:
        if node.op in ALWAYS or is_fused(node):
            self.buffers.update(v for v in node.outputs if v not in self.in_place)
            self._operands(node)
            return
        out = node.output
        if node.op == "concat":
            if out not in self.in_place and not self._virtual_concat(node):
                self.buffers.add(out)
        elif node.op == "put_rows":
            if out not in self.in_place:
                self.buffers.add(out)
            for v in (node.inputs[1], node.inputs[2]):
                self._reject_shared_virtual(v)
        elif node.op == "take":
            source = node.inputs[0]
            if affine(source, self.is_buffer) is None and not self._is_virtual_concat(source):
                self._materialise(source)
            self._share(out)
        elif node.op == "take_along":
            if affine(node.inputs[0], self.is_buffer) is None:
                self._materialise(node.inputs[0])
            self._share(out)
        elif node.op in VIEWS:
            self._visit_view(node)
        else:
            self._visit_pointwise(node)

    def _reject_shared_virtual(self, value: Value) -> None:
        if self.uses[value] > 1 and not self._cheap(value) and affine(value, self.is_buffer) is None:
            self._materialise(value)

    def _virtual_concat(self, node: Node) -> bool:
        """Rows picked from a concatenation of rows: chosen per row, never copied together."""
        out = node.output
        readers = self.users.get(out, [])
        return (
            node.attrs["axis"] == 0 and self.uses[out] == 1 and len(readers) == 1
            and readers[0].op == "take" and readers[0].inputs[0] is out and len(node.inputs) == 2
        )  # fmt: skip

    def _is_virtual_concat(self, value: Value) -> bool:
        return value.producer is not None and value.producer.op == "concat" and value not in self.buffers

    def _visit_view(self, node: Node) -> None:
        source, out = node.inputs[0], node.output
        if affine(out, self.is_buffer) is not None:
            return
        if affine(source, self.is_buffer) is not None:
            # a strided view that this reshape cannot express: copy it once, then reshape freely
            self._materialise(source)
            return
        if (
            (node.op == "reshape" and not _splits_only(node))
            or (node.op == "broadcast" and not self._cheap(source))
            or (self.uses[out] > 1 and not self._cheap(source))
        ):
            self._materialise(source)

    def _visit_pointwise(self, node: Node) -> None:
        out = node.output
        for v in node.inputs:
            spread = not same_shape([d for d in v.type.shape if not same_dim(d, 1)],
                                    [d for d in out.type.shape if not same_dim(d, 1)])  # fmt: skip
            if spread and affine(v, self.is_buffer) is None and not self._cheap(v):
                self._materialise(v)
        self._share(out)

    def _share(self, out: Value) -> None:
        if self.uses[out] > 1 and not self._cheap(out):
            self.buffers.add(out)

    def _cheap(self, value: Value) -> bool:
        """Constants and counters, seen through views and casts."""
        node = value.producer
        if node is None or value in self.buffers:
            return False
        if node.op in CHEAP:
            return True
        return node.op in VIEWS | {"cast"} and self._cheap(node.inputs[0])

    def _materialise(self, value: Value) -> None:
        if not self.is_buffer(value):
            self.buffers.add(value)

    def _operands(self, node: Node) -> None:
        if node.op == "matmul":
            a, b = node.inputs
            view_a, view_b = affine(a, self.is_buffer), affine(b, self.is_buffer)
            if view_a is None or not (same_dim(view_a.strides[-1], 1) or same_dim(a.type.shape[-1], 1)):
                self._materialise(a)
            if view_b is None or not (same_dim(view_b.strides[-1], 1) or same_dim(view_b.strides[-2], 1)):
                self._materialise(b)
        elif node.op in ("topk", "sort", "argmax", "call") or is_fused(node):
            for v in node.inputs:
                if contiguous_alias(v, self.is_buffer) is None:
                    self._materialise(v)
        elif node.op == "expert_linear":
            view = affine(node.inputs[0], self.is_buffer)
            if view is None or not same_dim(view.strides[-1], 1):
                self._materialise(node.inputs[0])
            for v in node.inputs[1:]:
                if contiguous_alias(v, self.is_buffer) is None:
                    self._materialise(v)
        else:  # softmax, running sums and reductions read their operand inline
            source = node.inputs[0]
            if self.uses[source] > 1 and not self._cheap(source) and affine(source, self.is_buffer) is None:
                self._materialise(source)

    # Kernels.

    def _kernel(self, node: Node) -> Kernel | None:
        outs = node.outputs
        if node.op == "call":
            return Kernel("call", node, [v for v in outs if v not in self.in_place])
        if is_fused(node):
            return Kernel("fused", node, outs, workspace=workspace_bytes(node))
        if node.op == "concat" and outs[0] in self.in_place:
            return Kernel("append", node, outs)
        if not any(v in self.buffers or v in self.in_place for v in outs):
            return None
        if node.op in ("concat", "put_rows", "matmul", "softmax", "cumsum", "topk", "sort", "argmax", "expert_linear"):
            return Kernel(node.op, node, outs)
        if opdef(node.op).kind == "reduce":
            return Kernel("reduce", node, outs)
        return Kernel("pointwise", node, outs)

    def _reads(self, kernel: Kernel) -> list[Value]:
        """Buffers that the kernel reads, through everything that is inlined into it."""
        found: dict[Value, None] = {}
        stack = list(kernel.root.inputs)
        if kernel.kind == "append":
            stack = stack[1:]
        while stack:
            v = stack.pop()
            if self.is_buffer(v):
                found[v] = None
            elif v.producer is not None:
                stack.extend(v.producer.inputs)
        return list(found)


def _splits_only(node: Node) -> bool:
    """A reshape whose input index is a plain function of the output index (no division)."""
    groups = split_groups(node.inputs[0].type.shape, node.output.type.shape)
    if groups is None:
        return False
    shape = node.inputs[0].type.shape
    return all(sum(not same_dim(shape[i], 1) for i in left) <= 1 for left, _ in groups)
