"""Products with weights: bf16, by the vendor or in float32 by our own kernel, or int8 by rows that are quantised token by token.

A quantised row has one to three digits: n int8 for n values, or two or three times as many, all highest digits first. The vendor's
product sees digits as rows of their own, so that it reads the weights once; `dequantise` joins the sums.
"""

from __future__ import annotations

from pangu_compile.ir import IRError, Value
from pangu_compile.ir.types import Dim, dim, product

from ..convert_kernels import dequantise, quantise
from ..product_kernels import product as product_kernel
from .body import Body
from .values import C_TYPES, DIGITS, Tensor, View, int8_scales

Rows = tuple[Tensor, Tensor]  # int8 rows of `digits`, and a float32 scale for each
LARGEST_SUM = 2**31 - 1


def digits(body: Body, weight: Value) -> int:
    """Of int8 rows that a product with that weight reads; 0: it reads floats.

    IRError where the vendor would have to scale sums of several digits, which it does not join.
    """
    count = DIGITS.get(body.weight(weight).ir_dtype, 0)
    if count > 1 and not body.lowering.wide:
        raise IRError(f"ascend: int8 weights that take activations of {8 * count} bits need float32 activations")
    return count


def wide_type(body: Body, weight: Value) -> str:
    """What a product that the residual or SwiGLU reads is stored as: the vendor scales sums of int8 products to bf16 at most."""
    return "bf16" if digits(body, weight) and not body.lowering.wide else "f32"


def rows_of(body: Body, value: Value, weight: Value) -> View:
    """A value as a product with that weight reads it: float32 where int8 rows are made of it, unless they are there already."""
    if not body.lowering.wide or not digits(body, weight):
        return body.view(value)
    held = body.tensor(value)
    return View(held, value.type.shape) if held.text in body.int8 else body.view(value, "f32")


def made_type(body: Body, weight: Value) -> str:
    """What a kernel writes rows as that only a product with that weight reads."""
    return body.lowering.made_type if digits(body, weight) else body.lowering.row_type


def multiply(body: Body, x: View, weight: View, out: View) -> None:
    """out = x (bf16 or split) times a weight seen as [I, O]. The vendor's product is rounded to bf16: float32 ones are ours."""
    if out.tensor.dtype != "f32":
        body.emit("matmul", x, weight, out)
        return
    depth, columns = (int(d) for d in weight.dims)
    kernel = body.lowering.kernels.get(product_kernel, "product", depth=depth, columns=columns, x_type=C_TYPES[x.tensor.dtype])
    body.launch(kernel, {"tokens": product(x.dims[:-1])}, {"x": x.tensor, "w": weight.tensor, "y": out.tensor})


def multiply_heads(
    body: Body, x: Tensor, weight: Tensor, out: Tensor, tokens: Dim, *, heads: int, depth: int, columns: int,
    x_strides: tuple[int, int, int], w_strides: tuple[int, int], y_strides: tuple[int, int], by_depth: bool,
) -> None:  # fmt: skip
    """out[t, h, :] f32 = x[t, h, :] split times head h's weight bf16: [columns, depth], or [depth, columns] where `by_depth`.

    Strides count elements in memory (bf16 for x). x: of tokens, of heads, from high to low parts; weight: of heads, of its rows;
    out: of tokens, of heads.
    """
    kernel = body.lowering.kernels.get(
        product_kernel, "product_heads", x_type="split", depth=depth, columns=columns, heads=heads, x_strides=x_strides,
        w_strides=w_strides, y_strides=y_strides, by_depth=by_depth,
    )  # fmt: skip
    body.launch(kernel, {"tokens": tokens}, {"x": x, "w": weight, "y": out})


def quantised(body: Body, x: View, count: int) -> Rows:
    """The rows of x as int8 of `count` digits, made once, unless the kernel that made x has made them too."""
    if x.tensor.text not in body.int8:
        rows, columns = product(x.dims[:-1]), int(x.dims[-1])
        made = body.buffer("int8", rows, count * columns), body.buffer("f32", rows)
        if x.tensor.dtype == "f32":
            kernel = body.lowering.kernels.get(quantise, "quantise", channels=columns, digits=count)
            body.launch(kernel, {"tokens": rows}, {"x": x.tensor, "y": made[0], "scale": made[1]})
        else:
            body.emit("dynamic_quant", x, View(made[0], x.dims), View(made[1], (rows,)))
        body.int8[x.tensor.text] = made
    return body.int8[x.tensor.text]


def project(body: Body, x: View, weights: tuple[Value, ...], out: View, rows: Rows | None = None) -> None:
    """out = x times the weights [O, I], one behind the other, transposed. `rows`: x quantised, where it exists only so."""
    first = weights[0]
    count = digits(body, first)
    if not count:
        multiply(body, x, body.joined(*weights) if len(weights) == 2 else body.matrix(first), out)
        return
    form = "int8" if len(weights) == 1 else "int8 joined"
    held = [body.weight(w) for w in weights]
    tensors = [h.stored(form) for h in held]
    if len(weights) == 2:
        body.adjacent.append((held[0], held[1]))
    outputs, depth = int(sum(int(w.type.shape[0]) for w in weights)), int8_depth(first, count)
    scales = int8_scales(tensors[0], outputs * depth)
    values, factors = rows or quantised(body, x, count)
    tokens = x.dims[0]
    operands = View(values, (dim(count * tokens), depth)), View(tensors[0], (outputs, depth)), View(scales, (outputs,))
    if out.tensor.dtype != "f32":
        body.emit("quant_matmul", *operands, View(factors, (tokens,)), out)
        return
    sums = body.buffer("i32", tokens, count * outputs)
    body.emit("quant_matmul", *operands, "none()", View(sums, (dim(count * tokens), outputs)))
    kernel = body.lowering.kernels.get(dequantise, "dequantise", columns=outputs, digits=count)
    body.launch(kernel, {"tokens": tokens}, {"x": sums, "row_scale": factors, "scale": scales, "y": out.tensor})


def int8_depth(weight: Value, count: int) -> int:
    """Of a product with int8 weights [.., O, I]. IRError where int32 might not hold its sums."""
    depth = int(weight.type.shape[-1])
    if depth * 127 * (128 if count > 1 else 127) > LARGEST_SUM:
        raise IRError(f"ascend: %{weight.name}: sums of {depth} int8 products do not fit int32")
    return depth


class Groups:
    """Rows of x [T, H], each once for each of its experts and sorted by them, and products with the experts' weights."""

    def __init__(self, body: Body, x: View, index: View, rows: View, place: View, experts: int):
        """Writes the sorted `rows` [T k, H] and `place` [T k]: where token t's j-th copy went."""
        self.body, self.wide = body, body.lowering.wide  # our kernels read where groups end
        self.totals = View(body.buffer("i32", experts), (experts,))
        self.listed: dict[int, View] = {}
        halves = (x.halves, rows.halves) if x.tensor.dtype == "split" else (x, rows)
        body.emit("init_routing", halves[0], index, halves[1], place, self.totals, "true" if self.wide else "false")

    def _listed(self, count: int = 1) -> View:
        """The totals as the vendor's products take them, of rows that are `count` rows there."""
        if count not in self.listed:
            dims, totals = self.totals.dims, self.totals
            if count > 1:
                totals = View(self.body.buffer("i32", *dims), dims)
                self.body.emit("times", self.totals, count, totals)
            self.listed[count] = View(self.body.buffer("i64", *dims), dims)
            self.body.emit("cast", totals, self.listed[count])
        return self.listed[count]

    def multiply(self, x: View, weight: Value, out: View, rows: Rows | None = None) -> None:
        """out = rows of x by their experts' weights [E, O, I] transposed. `rows`: x quantised, where it exists only so."""
        if count := digits(self.body, weight):
            self._multiply_int8(x, weight, out, rows, count)
            return
        body, (experts, outputs, depth) = self.body, (int(d) for d in weight.type.shape)
        held = body.weight(weight).stored("bf16")
        if not self.wide:
            body.emit("grouped_matmul", x, View(held, weight.type.shape).transposed, self._listed(), out)
            return
        kernel = body.lowering.kernels.get(
            product_kernel, "product_experts", depth=depth, columns=outputs, x_type="split", groups=experts
        )
        operands = {"x": x.tensor, "w": held, "ends": self.totals.tensor, "y": out.tensor}
        body.launch(kernel, {"tokens": x.dims[0]}, operands)

    def _multiply_int8(self, x: View, weight: Value, out: View, rows: Rows | None, count: int) -> None:
        body, (experts, outputs), depth = self.body, (int(d) for d in weight.type.shape[:2]), int8_depth(weight, count)
        tensor = body.weight(weight).stored("int8")
        scales = int8_scales(tensor, experts * outputs * depth)
        values, factors = rows or quantised(body, x, count)
        pairs, many = dim(x.dims[0]), dim(count * x.dims[0])
        operands = View(values, (many, depth)), View(tensor, weight.type.shape).transposed
        if not self.wide:
            scaling = View(scales, (experts, outputs)), View(factors, (pairs,))
            body.emit("quant_grouped_matmul", *operands, *scaling, self._listed(), out)
            return
        sums = body.buffer("i32", pairs, count * outputs)
        body.emit("grouped_sums", *operands, self._listed(count), View(sums, (many, outputs)))
        kernel = body.lowering.kernels.get(dequantise, "dequantise_experts", columns=outputs, groups=experts, digits=count)
        scaled = {"x": sums, "row_scale": factors, "scale": scales, "ends": self.totals.tensor, "y": out.tensor}
        body.launch(kernel, {"tokens": pairs}, scaled)
