"""Weights to bf16, int8, int4, w8a24, w8a16 or w8a8: retypes the matrices that fused operators read and nothing else reads.

Values stay what they are; only their storage changes, so this is a change of types through programs, calls and functions.
A weight keeps its type where anything but a matrix operand reads it (an embedding, a norm), where it is a result or
folded at build time, or where one call of a shared function passes something else than such a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import networkx as nx

from pangu_compile.ir import DType, Graph, IRError, Module, Node, Program, TensorType, Value
from pangu_compile.ir.types import QUANT_GROUP

# Operands by operator: those that take any format, and those that decide what is computed (which experts, which keys),
# which take at most bf16.
MATRICES: dict[str, tuple[str, ...]] = {
    "linear": ("in1",),
    "dense_ffn": ("in1", "in2", "in3"),
    "moe_ffn": ("gate_up", "down", "shared_gate", "shared_up", "shared_down"),
    "mla_prologue": ("q_a", "q_b", "kv_a"),
    "swa_attention": ("kv_b",),
    "dense_attention": ("kv_b",),
    "dsa_attention": ("kv_b",),
    "attention_output": ("o_proj",),
    "lm_head_argmax": ("w",),
    "mtp_verify": ("w",),
}
DECIDING: dict[str, tuple[str, ...]] = {"moe_gate": ("router",), "index_prologue": ("wq_b", "wk", "weights_proj")}

# With the formats of int8 on Ascend: operands that keep more than eight bits, beside products that make logits.
KEPT = {"kv_b": DType.bf16, "w": DType.bf16, "router": DType.f32}
KEEPING = ("w8a24", "w8a16", "w8a8")

# w8a16 is int8 in the matrices that w8a8 and w8a24 have, and row by row as there.
FORMATS = {
    "bf16": DType.bf16, "int8": DType.q8i, "int4": DType.q4, "w8a24": DType.w8a24, "w8a16": DType.q8, "w8a8": DType.w8a8,
}  # fmt: skip
# From the widest to the narrowest; a weight with several readers takes the widest that one of them asks for.
_ORDER = (DType.f32, DType.bf16, DType.bf16c, DType.w8a24, DType.q8, DType.q8i, DType.w8a8, DType.q4)
COLUMNS = 1 << 16  # of a row in which bf16c can list weights

Compresses = Callable[[str], bool]


def _slot(node: Node, position: int) -> str:
    """The name of an operand: its slot, or inN for operators without names."""
    slots = node.attrs.get("slots")
    return str(slots[position]) if isinstance(slots, tuple) else f"in{position}"


def _wanted(node: Node, position: int, target: DType, keeping: bool, logits: frozenset[Value]) -> DType:
    """The format in which an operand may be read. keeping: those in KEPT stay. logits: results of programs, which callers see."""
    slot = _slot(node, position)
    if slot in DECIDING.get(node.op, ()):
        return KEPT.get(slot, DType.bf16) if keeping else DType.bf16
    if slot not in MATRICES.get(node.op, ()):
        return DType.f32
    if keeping:
        return DType.bf16 if node.op == "linear" and node.output in logits else KEPT.get(slot, target)
    # Every cached row goes through kv_b, and int4 there costs most of the accuracy that int4 costs in all. It is also read
    # transposed, which bf16c and q8i are not made for.
    return {DType.q4: DType.q8}.get(target, target.plain) if slot == "kv_b" else target


class _Readers:
    """Which values are one weight (program parameters by name, and the function parameters that they are passed to)."""

    def __init__(self, module: Module, target: DType, keeping: bool):
        self.module, self.target, self.keeping = module, target, keeping
        self.same: nx.Graph = nx.Graph()  # nodes: values, and weight names
        self.widest: dict[Value, DType] = {}
        self.logits = frozenset(value for program in module.programs.values() for value in program.graph.outputs)
        for program in module.programs.values():
            self._program(program)
        for graph in module.graphs():
            self._graph(graph)

    def _program(self, program: Program) -> None:
        for role, value in zip(program.params, program.graph.params, strict=True):
            if role.kind == "weight":
                self.same.add_edge(value, role.key)

    def _graph(self, graph: Graph) -> None:
        for value in graph.outputs:
            self._limit(value, DType.f32)
        for node in graph.nodes:
            for position, value in enumerate(node.inputs):
                if node.op == "call":
                    self.same.add_edge(value, self.module.functions[node.attrs["function"]].params[position])
                else:
                    self._limit(value, _wanted(node, position, self.target, self.keeping, self.logits))

    def _limit(self, value: Value, dtype: DType) -> None:
        self.widest[value] = min(self.widest.get(value, _ORDER[-1]), dtype, key=_ORDER.index)

    def weights(self) -> Iterator[tuple[list[str], list[Value], DType]]:
        """Names and values of weights that must share a type, and the type that all of their readers take."""
        own = {value for graph in self.module.graphs() for value in graph.params}
        inputs = {
            value for program in self.module.programs.values()
            for role, value in zip(program.params, program.graph.params, strict=True) if role.kind != "weight"
        }  # fmt: skip
        for members in nx.connected_components(self.same):
            names = sorted(m for m in members if isinstance(m, str))
            values = [m for m in members if isinstance(m, Value)]
            if names and all(v in own and v not in inputs for v in values):
                yield names, values, min((self.widest.get(v, _ORDER[-1]) for v in values), key=_ORDER.index)


def _fits(module: Module, name: str, dtype: DType) -> bool:
    type_ = module.weights[name]
    if name in module.folded or type_.dtype is not DType.f32 or type_.rank not in (2, 3):
        return False
    if dtype is DType.bf16c:
        less = TensorType(dtype, type_.shape).nbytes < TensorType(DType.bf16, type_.shape).nbytes
        return bool(less) and int(type_.shape[-1]) <= COLUMNS
    return not dtype.is_quantised or int(type_.shape[-1]) >= QUANT_GROUP


def _rows_fit(type_: TensorType, dtype: DType) -> bool:
    return type_.rank < 2 or int(type_.shape[-2]) % dtype.rows_together == 0


def quantise_weights(module: Module, weight_format: str, compresses: Compresses | None = None) -> dict[str, DType]:
    """Retype, in place, the weights whose readers allow it.

    Args:
        weight_format: f32 (nothing changes), bf16, int8, int4, w8a24, w8a16 or w8a8.
        compresses: can bf16c hold the weight of that name? Where it can, that is how bf16 is stored. None: nowhere.
    Returns:
        The new dtype of every weight that changed, by name.
    Raises:
        IRError: an unknown format.
    """
    if weight_format == "f32":
        return {}
    if weight_format not in FORMATS:
        raise IRError(f"weight format {weight_format!r} is not one of f32, {', '.join(FORMATS)}")
    changed: dict[str, DType] = {}
    target = DType.bf16c if weight_format == "bf16" and compresses is not None else FORMATS[weight_format]
    for names, values, dtype in _Readers(module, target, weight_format in KEEPING).weights():
        if not all(_rows_fit(module.weights[name], dtype) for name in names):
            dtype = dtype.plain
        if dtype is DType.bf16c and not all(_fits(module, n, dtype) and compresses is not None and compresses(n) for n in names):
            dtype = dtype.plain
        if dtype is DType.f32 or not all(_fits(module, name, dtype) for name in names):
            continue
        for name in names:
            module.weights[name] = TensorType(dtype, module.weights[name].shape)
            changed[name] = dtype
        for value in values:
            value.type = TensorType(dtype, value.type.shape)
    return {name: changed[name] for name in module.weights if name in changed}
