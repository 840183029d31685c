"""Primitive operators that stay in an optimised module: positions, look-ups, views and joins."""

from __future__ import annotations

from collections.abc import Callable

from pangu_compile.ir import DType, IRError, Node
from pangu_compile.ir.types import Dim, dim, product, same_dim

from ...dims import c_dim
from .body import Body
from .values import Number, Positions, Tensor, View, Weight

Lower = Callable[[Body, Node], None]


def _constant(body: Body, node: Node) -> None:
    if node.output.type.rank != 0 or node.output.type.dtype is not DType.i64:
        raise IRError(f"ascend: a constant {node.output.type} at {node.loc}")
    body.held[node.output] = Number(str(int(node.attrs["value"])))


def _size(body: Body, node: Node) -> None:
    body.held[node.output] = Number(c_dim(node.attrs["value"]))


def _iota(body: Body, node: Node) -> None:
    body.held[node.output] = Positions("0")


def _sum(sign: str) -> Lower:
    def lower(body: Body, node: Node) -> None:
        a, b = (body.held[v] for v in node.inputs)
        if isinstance(a, Number) and isinstance(b, Number):
            body.held[node.output] = Number(f"({a.text} {sign} {b.text})")
        elif isinstance(a, Positions) and isinstance(b, Number):
            body.held[node.output] = Positions(f"({a.first} {sign} {b.text})")
        elif isinstance(a, Number) and isinstance(b, Positions) and sign == "+":
            body.held[node.output] = Positions(f"({a.text} + {b.first})")
        else:
            raise IRError(f"ascend: {node.op} of {node.inputs[0].type} and {node.inputs[1].type} at {node.loc or body.graph.name}")

    return lower


def _take(body: Body, node: Node) -> None:
    """Rows of an embedding or of activations by int32 indices. Embeddings that may be a stream are float32 from here on."""
    source, index = node.inputs
    held = body.held[source]
    table = held.stored("bf16") if isinstance(held, Weight) else body.tensor(source)
    if source.type.rank != 2 or index.type.rank != 1:
        raise IRError(f"ascend: take of {source.type} by {index.type} at {node.loc}")
    shape, where = node.output.type.shape, View(body.tensor(index, "i32"), index.type.shape)
    normed = all(n.op == "rms_norm" for n in body.graph.nodes if node.output in n.inputs)
    stream = isinstance(held, Weight) and (not normed or node.output in body.graph.outputs)
    rows = body.buffer("bf16", *shape) if stream else body.result(node.output, table.dtype)
    body.emit("take_rows", View(table, source.type.shape), where, View(rows, shape))
    if stream:
        body.emit("cast", View(rows, shape), View(body.result(node.output, "f32"), shape))


def _reshape(body: Body, node: Node) -> None:
    body.held[node.output] = body.held[node.inputs[0]]


def _slice(body: Body, node: Node) -> None:
    source, axis = node.inputs[0], node.attrs["axis"]
    shape = source.type.shape
    if not all(same_dim(d, 1) for d in shape[:axis]):
        raise IRError(f"ascend: slice of axis {axis} of {source.type} at {node.loc}")
    tensor = body.tensor(source)
    body.held[node.output] = tensor.at(dim(node.attrs["start"] * product(shape[axis + 1 :])))


def _broadcast(body: Body, node: Node) -> None:
    """A copy: what reads it wants rows. Streams are float32."""
    source, shape = node.inputs[0], node.output.type.shape
    tensor = body.tensor(source)
    sizes = (1,) * (len(shape) - source.type.rank) + source.type.shape
    strides: list[Dim] = []
    for axis, (have, want) in enumerate(zip(sizes, shape, strict=True)):
        strides.append(0 if same_dim(have, 1) and not same_dim(want, 1) else product(sizes[axis + 1 :]))
    out = body.result(node.output, "f32" if tensor.dtype == "bf16" else tensor.dtype)
    body.emit("copy", View(out, shape), View(tensor, shape, tuple(strides)))


def _concat(body: Body, node: Node) -> None:
    tensors = [body.tensor(v) for v in node.inputs]
    out = body.result(node.output, tensors[0].dtype)
    axis, shape = node.attrs["axis"], node.output.type.shape
    at: Dim = 0
    strides = tuple(product(shape[i + 1 :]) for i in range(len(shape)))
    for value, tensor in zip(node.inputs, tensors, strict=True):
        target = View(out.at(dim(at * product(shape[axis + 1 :]))), value.type.shape, strides)
        body.emit("copy", target, View(tensor, value.type.shape))
        at = dim(at + value.type.shape[axis])


def _rotary_table(body: Body, node: Node) -> None:
    """Rows of the model's table, which the host computes when the model is opened."""
    held = body.held[node.inputs[0]]
    if not isinstance(held, Positions):
        raise IRError(f"ascend: rotary positions at {node.loc} are not consecutive")
    width, theta = int(node.attrs["dim"]), float(node.attrs["theta"])
    body.held[node.output] = Tensor(f"rotary_rows(d, {width}, {theta!r}, {held.first})", "f32")


def _transpose(body: Body, node: Node) -> None:
    source, perm = node.inputs[0], node.attrs["perm"]
    shape = source.type.shape
    strides = [product(shape[i + 1 :]) for i in range(len(shape))]
    tensor = body.tensor(source)
    out = body.result(node.output, tensor.dtype)
    body.emit("copy", View(out, node.output.type.shape), View(tensor, node.output.type.shape, tuple(strides[p] for p in perm)))


def _add(body: Body, node: Node) -> None:
    """Integers on the host, else tensors of the same shape."""
    if all(isinstance(body.held[v], (Number, Positions)) for v in node.inputs):
        return _sum("+")(body, node)
    dtype = body.lowering.sum_type
    a, b = (body.view(v, dtype) for v in node.inputs)
    body.emit("add", a, b, View(body.result(node.output, dtype), node.output.type.shape))
    return None


PRIMITIVES: dict[str, Lower] = {
    "constant": _constant, "size": _size, "iota": _iota, "add": _add, "sub": _sum("-"), "take": _take, "reshape": _reshape,
    "slice": _slice, "broadcast": _broadcast, "concat": _concat, "rotary_table": _rotary_table, "transpose": _transpose,
}  # fmt: skip
