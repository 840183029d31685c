"""Import rules: reductions, selection, products, norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import sympy

from pangu_compile.ir import Value, dim
from pangu_compile.ir.types import same_dim

from .operands import Attrs, Importing, rule
from .rules_shape import cut, given_axes, vector


def swap_last(im: Importing, x: Value, axis: int) -> Value:
    """The operand with `axis` and its last axis exchanged."""
    if axis == x.type.rank - 1:
        return x
    perm = list(range(x.type.rank))
    perm[axis], perm[-1] = perm[-1], perm[axis]
    return im.build("transpose", x, perm=tuple(perm))


def reduced(im: Importing, op: str, x: Value, axes: Sequence[int], keep: bool) -> Value:
    axes = tuple(sorted(im.axis(a, x.type.rank) for a in axes))
    out = im.build(op, x, axes=axes) if axes else x
    return out if keep else im.build.reshape(out, tuple(d for i, d in enumerate(x.type.shape) if i not in axes))


def scaled(im: Importing, x: Value, count: Any) -> Value:
    """x / count."""
    if isinstance(count, int):
        return im.build("mul", x, im.build.constant(1.0 / count, x.type.dtype))
    return im.build("div", x, im.value(vector([count]).reshape(()), x.type.dtype))


def _reduction(
    op: str, before: Callable[[Importing, Value], Value] | None = None, after: str | None = None
) -> Callable[..., Value]:
    def apply(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
        x, axes = im.value(xs[0]), given_axes(im, attrs, xs)
        if not axes:
            if attrs.get("noop_with_empty_axes", 0):
                return x
            axes = list(range(x.type.rank))
        keep = bool(attrs.get("keepdims", 1))
        out = reduced(im, op, before(im, x) if before else x, axes, keep)
        if after == "mean":
            count = dim(math.prod((x.type.shape[im.axis(a, x.type.rank)] for a in axes), start=sympy.Integer(1)))
            return scaled(im, out, count)
        return im.build(after, out) if after else out

    return apply


def _square(im: Importing, x: Value) -> Value:
    return im.build("mul", x, x)


rule("ReduceSum")(_reduction("reduce_sum"))
rule("ReduceMax")(_reduction("reduce_max"))
rule("ReduceMin")(_reduction("reduce_min"))
rule("ReduceMean")(_reduction("reduce_sum", after="mean"))
rule("ReduceSumSquare")(_reduction("reduce_sum", before=_square))
rule("ReduceL1")(_reduction("reduce_sum", before=lambda im, x: im.build("abs", x)))
rule("ReduceL2")(_reduction("reduce_sum", before=_square, after="sqrt"))


@rule("Softmax")
def _softmax(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x = im.value(xs[0])
    axis = im.axis(attrs.get("axis", -1), x.type.rank)
    return swap_last(im, im.build("softmax", swap_last(im, x, axis)), axis)


@rule("CumSum")
def _cumsum(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    if attrs.get("exclusive", 0) or attrs.get("reverse", 0):
        raise im.fail("exclusive or reverse running sums are not covered")
    x = im.value(xs[0])
    axis = im.axis(im.sizes(xs[1], "the axis")[0], x.type.rank)
    return swap_last(im, im.build("cumsum", swap_last(im, x, axis)), axis)


@rule("LogSoftmax")
def _log_softmax(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x = im.value(xs[0])
    axes = (im.axis(attrs.get("axis", -1), x.type.rank),)
    centred = im.build("sub", x, im.build("reduce_max", x, axes=axes))
    return im.build("sub", centred, im.build("log", im.build("reduce_sum", im.build("exp", centred), axes=axes)))


def _arg(negate: bool) -> Callable[..., Value]:
    def apply(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
        if attrs.get("select_last_index", 0):
            raise im.fail("select_last_index=1 is not covered")
        x = im.value(xs[0])
        axis = im.axis(attrs.get("axis", 0), x.type.rank)
        shape = list(x.type.shape)
        out = im.build("argmax", swap_last(im, im.build("neg", x) if negate else x, axis))
        if axis != x.type.rank - 1:
            # The exchanged axis stands where `axis` was; it belongs at the end.
            perm = [i for i in range(out.type.rank) if i != axis] + [axis]
            out = im.build("transpose", out, perm=tuple(perm)) if perm != list(range(out.type.rank)) else out
        shape[axis] = 1
        kept = [d for i, d in enumerate(shape) if i != axis or attrs.get("keepdims", 1)]
        out = im.build.reshape(out, tuple(kept))
        im.nonnegative.add(out)
        return out

    return apply


rule("ArgMax")(_arg(negate=False))
rule("ArgMin")(_arg(negate=True))


@rule("TopK")
def _topk(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> list[Value]:
    x, k = im.value(xs[0]), im.sizes(xs[1], "k")[0]
    axis = im.axis(attrs.get("axis", -1), x.type.rank)
    moved = swap_last(im, x, axis)
    last, size = x.type.rank - 1, x.type.shape[axis]
    if attrs.get("largest", 1):
        results = im.build.multi("sort", moved, descending=True) if same_dim(k, size) else im.build.multi("topk", moved, k=k)
    else:
        results = [cut(im, v, last, 0, k) for v in im.build.multi("sort", moved, descending=False)]
    values, index = (swap_last(im, v, axis) for v in results)
    im.nonnegative.add(index)
    return [values, index]


@rule("MatMul")
def _matmul(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    """Vectors count as a row on the left, as a column on the right; a matrix on the right takes all rows at once."""
    a, b = im.value(xs[0]), im.value(xs[1])
    left, right = a.type.rank == 1, b.type.rank == 1
    a = im.build.reshape(a, (1, *a.type.shape)) if left else a
    b = im.build.reshape(b, (*b.type.shape, 1)) if right else b
    if a.type.rank > 2 and b.type.rank == 2:
        rows = dim(math.prod(a.type.shape[:-1], start=sympy.Integer(1)))
        flat = im.build("matmul", im.build.reshape(a, (rows, a.type.shape[-1])), b)
        out = im.build.reshape(flat, (*a.type.shape[:-1], b.type.shape[-1]))
    else:
        out = im.build("matmul", a, b)
    shape = list(out.type.shape)
    if right:
        del shape[-1]
    if left:
        del shape[-1 if right else -2]
    return im.build.reshape(out, tuple(shape))


@rule("Gemm")
def _gemm(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    a, b = im.value(xs[0]), im.value(xs[1])
    a = im.build("transpose", a, perm=(1, 0)) if attrs.get("transA", 0) else a
    b = im.build("transpose", b, perm=(1, 0)) if attrs.get("transB", 0) else b
    out, dtype = im.build("matmul", a, b), a.type.dtype
    if attrs.get("alpha", 1.0) != 1.0:
        out = im.build("mul", out, im.build.constant(attrs["alpha"], dtype))
    if len(xs) < 3 or xs[2] is None:
        return out
    bias = im.value(xs[2])
    if attrs.get("beta", 1.0) != 1.0:
        bias = im.build("mul", bias, im.build.constant(attrs["beta"], dtype))
    return im.build("add", out, bias)


def _normalised(im: Importing, x: Value, axes: tuple[int, ...], eps: float) -> Value:
    """x / sqrt(mean(x^2) + eps) over the axes."""
    count = dim(math.prod((x.type.shape[a] for a in axes), start=sympy.Integer(1)))
    mean = scaled(im, im.build("reduce_sum", im.build("mul", x, x), axes=axes), count)
    return im.build("mul", x, im.build("rsqrt", im.build("add", mean, im.build.constant(eps, x.type.dtype))))


@rule("LayerNormalization")
def _layer_norm(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x = im.value(xs[0])
    axes = tuple(range(im.axis(attrs.get("axis", -1), x.type.rank), x.type.rank))
    count = dim(math.prod((x.type.shape[a] for a in axes), start=sympy.Integer(1)))
    mean = scaled(im, im.build("reduce_sum", x, axes=axes), count)
    out = _normalised(im, im.build("sub", x, mean), axes, attrs.get("epsilon", 1e-5))
    out = im.build("mul", out, im.value(xs[1]))
    return out if len(xs) < 3 or xs[2] is None else im.build("add", out, im.value(xs[2]))


@rule("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_norm(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x = im.value(xs[0])
    axes = tuple(range(im.axis(attrs.get("axis", -1), x.type.rank), x.type.rank))
    return im.build("mul", _normalised(im, x, axes, attrs.get("epsilon", 1e-5)), im.value(xs[1]))


@rule("BatchNormalization")
def _batch_norm(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    """At inference: scale and shift of axis 1."""
    if attrs.get("training_mode", 0):
        raise im.fail("training_mode=1 is not covered")
    x, scale, bias, mean, variance = (im.value(v) for v in xs)
    shape = (x.type.shape[1], *[1] * (x.type.rank - 2))
    eps = im.build.constant(attrs.get("epsilon", 1e-5), variance.type.dtype)
    factor = im.build("mul", scale, im.build("rsqrt", im.build("add", variance, eps)))
    centred = im.build("sub", x, im.build.reshape(mean, shape))
    return im.build("add", im.build("mul", centred, im.build.reshape(factor, shape)), im.build.reshape(bias, shape))


@rule("Einsum")
def _einsum(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    """Two operands, each letter once in an operand: one batched product."""
    text = attrs["equation"].replace(" ", "")
    if text.count("->") != 1 or len(xs) != 2 or "." in text:
        raise im.fail(f"equation {text!r} is not covered")
    terms, result = text.split("->")
    left, right = terms.split(",")
    if any(len(set(t)) != len(t) for t in (left, right, result)):
        raise im.fail(f"equation {text!r} is not covered")
    a, b = im.value(xs[0]), im.value(xs[1])
    sizes = dict(zip(left + right, (*a.type.shape, *b.type.shape), strict=True))
    batch = [c for c in left if c in right and c in result]
    inner = [c for c in left if c in right and c not in result]
    rows, columns = [c for c in left if c not in right], [c for c in right if c not in left]
    if set(rows + columns) - set(result):
        raise im.fail(f"equation {text!r} sums over an axis of one operand, which is not covered")

    def arranged(x: Value, letters: str, groups: tuple[list[str], ...]) -> Value:
        perm = tuple(letters.index(c) for group in groups for c in group)
        x = x if perm == tuple(range(len(perm))) else im.build("transpose", x, perm=perm)
        leading = [sizes[c] for c in batch]
        return im.build.reshape(x, (*leading, *(_total(sizes[c] for c in group) for group in groups[1:])))

    product = im.build("matmul", arranged(a, left, (batch, rows, inner)), arranged(b, right, (batch, inner, columns)))
    order = [*batch, *rows, *columns]
    out = im.build.reshape(product, tuple(sizes[c] for c in order))
    perm = tuple(order.index(c) for c in result)
    return out if perm == tuple(range(len(perm))) else im.build("transpose", out, perm=perm)


def _total(dims: Any) -> Any:
    return dim(math.prod(dims, start=sympy.Integer(1)))


