"""Products with weights: bf16, by the vendor or in float32 by our own kernel, or int8 by rows that are quantised token by token."""

from __future__ import annotations

from pangu_compile.ir import Value
from pangu_compile.ir.types import dim, product

from ..product_kernels import product as product_kernel
from .body import Body
from .values import Tensor, View, int8_scales

Rows = tuple[Tensor, Tensor]  # int8 rows, and a float32 scale for each


def is_int8(body: Body, weight: Value) -> bool:
    return body.weight(weight).ir_dtype == "w8a8"


def wide_type(body: Body, weight: Value) -> str:
    """What a product that the residual or SwiGLU reads is stored as: the vendor's int8 product has no float32 result."""
    return "bf16" if is_int8(body, weight) else "f32"


def multiply(body: Body, x: View, weight: View, out: View) -> None:
    """out = x times a weight seen as [I, O]. The vendor's product of bf16 operands is rounded to bf16: float32 ones are ours."""
    if out.tensor.dtype != "f32":
        body.emit("matmul", x, weight, out)
        return
    depth, columns = (int(d) for d in weight.dims)
    kernel = body.lowering.kernels.get(product_kernel, "product", depth=depth, columns=columns)
    body.launch(kernel, {"tokens": product(x.dims[:-1])}, {"x": x.tensor, "w": weight.tensor, "y": out.tensor})


def quantised(body: Body, x: View) -> Rows:
    """The rows of x as int8, made once, unless the kernel that made x has made them too."""
    if x.tensor.text not in body.int8:
        rows = product(x.dims[:-1])
        made = body.buffer("int8", *x.dims), body.buffer("f32", rows)
        body.emit("dynamic_quant", x, View(made[0], x.dims), View(made[1], (rows,)))
        body.int8[x.tensor.text] = made
    return body.int8[x.tensor.text]


def project(body: Body, x: View, weights: tuple[Value, ...], out: View, rows: Rows | None = None) -> None:
    """out = x times the weights [O, I], one behind the other, transposed. `rows`: x quantised, where it exists only so."""
    first = weights[0]
    if not is_int8(body, first):
        multiply(body, x, body.joined(*weights) if len(weights) == 2 else body.matrix(first), out)
        return
    form = "int8" if len(weights) == 1 else "int8 joined"
    held = [body.weight(w) for w in weights]
    tensors = [h.stored(form) for h in held]
    if len(weights) == 2:
        body.adjacent.append((held[0], held[1]))
    outputs, depth = int(sum(int(w.type.shape[0]) for w in weights)), int(first.type.shape[1])
    scales = int8_scales(tensors[0], outputs * depth)
    values, factors = rows or quantised(body, x)
    tokens = x.dims[0]
    body.emit(
        "quant_matmul", View(values, (tokens, depth)), View(tensors[0], (outputs, depth)), View(scales, (outputs,)),
        View(factors, (tokens,)), out,
    )  # fmt: skip


def grouped(body: Body, x: View, weight: Value, groups: View, out: View, rows: Rows | None = None) -> None:
    """Rows of x, sorted by expert, by the experts' weights [E, O, I] transposed."""
    experts, outputs, depth = (int(d) for d in weight.type.shape)
    if not is_int8(body, weight):
        matrix = View(body.weight(weight).stored("bf16"), weight.type.shape).transposed
        body.emit("grouped_matmul", x, matrix, groups, out)
        return
    tensor = body.weight(weight).stored("int8")
    scales = View(int8_scales(tensor, experts * outputs * depth), (experts, outputs))
    values, factors = rows or quantised(body, x)
    matrix = View(tensor, weight.type.shape).transposed
    body.emit("quant_grouped_matmul", View(values, x.dims), matrix, scales, View(factors, (dim(x.dims[0]),)), groups, out)
