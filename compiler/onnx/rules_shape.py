"""Import rules: shapes, views, indexing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy

from pangu_compile.ir import DType, TensorType, Value, dim
from pangu_compile.ir.ops.pointwise import broadcast_shapes
from pangu_compile.ir.types import same_dim

from .known import tidy
from .operands import Attrs, Importing, Known, Operand, rule

FAR = 2**31 - 1  # a slice's end from here on means "to the last"


def vector(values: Sequence[Any]) -> Known:
    out = np.empty(len(values), object)
    out[:] = list(values)
    return tidy(out) if len(values) else np.zeros(0, np.int64)


@rule("Shape")
def _shape(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Known:
    return vector(im.shape(xs[0])[attrs.get("start", 0) : attrs.get("end")])


@rule("Size")
def _size(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Known:
    return vector([dim(math.prod(im.shape(xs[0])))]).reshape(())


def _numel(shape: Sequence[Any]) -> Any:
    return dim(math.prod(shape, start=sympy.Integer(1)))


@rule("Reshape")
def _reshape(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x = im.value(xs[0])
    old, target = x.type.shape, im.sizes(xs[1], "the shape")
    zero_copies = not attrs.get("allowzero", 0)
    shape = [old[i] if zero_copies and isinstance(d, int) and d == 0 else d for i, d in enumerate(target)]
    if -1 in [d for d in shape if isinstance(d, int)]:
        at = shape.index(-1)
        rest = _numel([d for i, d in enumerate(shape) if i != at])
        if isinstance(rest, int) and rest == 0:
            raise im.fail(f"-1 in shape {target} of an operand {x.type} is ambiguous")
        shape[at] = dim(sympy.cancel(sympy.sympify(_numel(old)) / rest))
    return keep_sign(im, x, im.build.reshape(x, tuple(shape)))


def keep_sign(im: Importing, x: Value, out: Value) -> Value:
    """`out` has elements of x alone."""
    if x in im.nonnegative:
        im.nonnegative.add(out)
    return out


@rule("Flatten")
def _flatten(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x = im.value(xs[0])
    axis = attrs.get("axis", 1)
    axis = axis + x.type.rank if axis < 0 else axis
    return im.build.reshape(x, (_numel(x.type.shape[:axis]), _numel(x.type.shape[axis:])))


def given_axes(im: Importing, attrs: Attrs, xs: Sequence[Any], at: int = 1) -> list[int] | None:
    """Axes as an operand (today's form) or as an attribute (before opset 13 or 18)."""
    if len(xs) > at and xs[at] is not None:
        return [int(a) for a in im.sizes(xs[at], "the axes")]
    return attrs.get("axes")


@rule("Squeeze")
def _squeeze(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x, axes = im.value(xs[0]), given_axes(im, attrs, xs)
    if axes is None:
        dropped = {i for i, d in enumerate(x.type.shape) if same_dim(d, 1)}
    else:
        dropped = {im.axis(a, x.type.rank) for a in axes}
    return keep_sign(im, x, im.build.reshape(x, tuple(d for i, d in enumerate(x.type.shape) if i not in dropped)))


@rule("Unsqueeze")
def _unsqueeze(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x, axes = im.value(xs[0]), given_axes(im, attrs, xs) or []
    rank = x.type.rank + len(axes)
    new, old = {im.axis(a, rank) for a in axes}, iter(x.type.shape)
    return keep_sign(im, x, im.build.reshape(x, tuple(1 if i in new else next(old) for i in range(rank))))


@rule("Transpose")
def _transpose(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x = im.value(xs[0])
    perm = tuple(attrs.get("perm") or range(x.type.rank)[::-1])
    return x if perm == tuple(range(x.type.rank)) else keep_sign(im, x, im.build("transpose", x, perm=perm))


def expand(im: Importing, x: Value, shape: tuple[Any, ...]) -> Value:
    return x if TensorType(x.type.dtype, shape).same(x.type) else keep_sign(im, x, im.build("broadcast", x, shape=shape))


@rule("Expand")
def _expand(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x = im.value(xs[0])
    return expand(im, x, broadcast_shapes([x.type.shape, tuple(im.sizes(xs[1], "the shape"))]))


@rule("Tile")
def _tile(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x = im.value(xs[0])
    for axis, count in enumerate(im.sizes(xs[1], "repeats")):
        if same_dim(count, 1):
            continue
        before, size, after = x.type.shape[:axis], x.type.shape[axis], x.type.shape[axis + 1 :]
        lifted = im.build.reshape(x, (*before, 1, size, *after))
        spread = im.build("broadcast", lifted, shape=(*before, count, size, *after))
        x = im.build.reshape(spread, (*before, dim(count * size), *after))
    return x


def _bound(place: Any, size: Any) -> Any:
    """A slice's start or end within [0, size]."""
    if isinstance(place, int) and place >= FAR:
        return size
    if isinstance(place, int) and place < 0:
        return dim(sympy.Max(0, size + place)) if not isinstance(size, int) else max(0, size + place)
    if isinstance(place, int) and isinstance(size, int):
        return min(place, size)
    inside = sympy.sympify(size - place)
    return place if place == 0 or inside.is_nonnegative else dim(sympy.Min(place, size))


def cut(im: Importing, x: Value, axis: int, start: Any, stop: Any) -> Value:
    if same_dim(start, 0) and same_dim(stop, x.type.shape[axis]):
        return x
    return keep_sign(im, x, im.build("slice", x, axis=axis, start=dim(start), stop=dim(stop)))


@rule("Slice")
def _slice(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x, *rest = xs
    x, rest = im.value(x), [*rest, None, None]
    starts, ends = im.sizes(rest[0], "the start"), im.sizes(rest[1], "the end")
    axes = range(len(starts)) if rest[2] is None else im.sizes(rest[2], "the axes")
    steps = [1] * len(starts) if rest[3] is None else im.sizes(rest[3], "the steps")
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = im.axis(axis, x.type.rank)
        size = x.type.shape[axis]
        if step == 1:
            begin = _bound(start, size)
            x = cut(im, x, axis, begin, _bound(end, size))
        elif isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
            lowest = -size - 1
            places = range(*slice(start, None if step < 0 and end <= lowest else end, step).indices(size))
            x = take_axis(im, x, axis, im.value(np.asarray(places, np.int64)))
        else:
            raise im.fail(f"step {step} along a symbolic axis is not covered")
    return x


@rule("Split")
def _split(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> list[Value]:
    x = im.value(xs[0])
    axis = im.axis(attrs.get("axis", 0), x.type.rank)
    size, count = x.type.shape[axis], len(im.node.output)
    if len(xs) > 1 and xs[1] is not None:
        parts = im.sizes(xs[1], "the split")
    elif "split" in attrs:
        parts = attrs["split"]
    elif isinstance(size, int):
        each = -(-size // count)
        parts = [min(each, size - i * each) for i in range(count)]
    else:
        raise im.fail("an even split of a symbolic axis is not covered")
    out, at = [], dim(0)
    for part in parts:
        out.append(cut(im, x, axis, at, at + part))
        at = dim(at + part)
    if not same_dim(at, size):
        raise im.fail(f"split {parts} of {x.type} along axis {axis}")
    return out


@rule("Concat")
def _concat(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    values = [im.value(x) for x in xs]
    axis = im.axis(attrs["axis"], values[0].type.rank)
    return values[0] if len(values) == 1 else im.build("concat", *values, axis=axis)


@rule("ConstantOfShape")
def _constant_of_shape(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Operand:
    from onnx import numpy_helper

    fill = numpy_helper.to_array(attrs["value"]).reshape(()) if "value" in attrs else np.float32(0)
    shape = tuple(im.sizes(xs[0], "the shape"))
    if all(isinstance(d, int) for d in shape):
        return np.full(shape, fill)
    return expand(im, im.value(np.asarray(fill)), shape)


@rule("Range")
def _range(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Operand:
    start, limit, step = (im.known(x, "a bound").reshape(()) for x in xs)
    if all(x.dtype != object for x in (start, limit, step)):
        return np.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)
    first, last, stride = (dim(x[()]) if isinstance(x[()], sympy.Expr) else int(x[()]) for x in (start, limit, step))
    if stride != 1:
        raise im.fail("a symbolic range with a step other than 1 is not covered")
    out = im.build("iota", size=dim(last - first), dtype=DType.i64.value)
    if first != 0:
        out = im.build("add", out, im.value(start))
    im.nonnegative.add(out)
    return out


@rule("Trilu")
def _trilu(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x = im.value(xs[0])
    k = int(im.sizes(xs[1], "the diagonal")[0]) if len(xs) > 1 and xs[1] is not None else 0
    rows, columns = x.type.shape[-2:]
    row = im.build.reshape(im.build("iota", size=rows, dtype="i64"), (rows, 1))
    column = im.build.reshape(im.build("iota", size=columns, dtype="i64"), (1, columns))
    diagonal = im.build("add", row, im.build.constant(k, DType.i64))
    keep = im.build("ge" if attrs.get("upper", 1) else "le", column, diagonal)
    zero = im.build.constant(0.0 if x.type.dtype.is_float else 0, x.type.dtype)
    return im.build("where", keep, x, zero)


# Indexing.


def plain_index(im: Importing, index: Any, size: Any) -> Value:
    """An index that counts from 0: negative ones count from the end."""
    if isinstance(index, np.ndarray) and index.dtype != object and (isinstance(size, int) or bool((index >= 0).all())):
        index = index.astype(np.int64)
        return im.value(np.where(index < 0, index + (size if isinstance(size, int) else 0), index))
    known = index in im.nonnegative if isinstance(index, Value) else True
    value = im.value(index, DType.i64)
    if known:
        return value
    low = im.build("lt", value, im.build.constant(0, DType.i64))
    return im.build("where", low, im.build("add", value, im.value(vector([size]).reshape(()))), value)


def take_axis(im: Importing, x: Value, axis: int, index: Value) -> Value:
    """Elements along one axis; the index's axes take its place."""
    if axis == 0:
        return im.build("take", x, index)
    rank, r = x.type.rank, index.type.rank
    rest = [i for i in range(rank) if i != axis]
    taken = im.build("take", im.build("transpose", x, perm=(axis, *rest)), index)
    perm = (*range(r, r + axis), *range(r), *range(r + axis, r + len(rest)))
    return taken if perm == tuple(range(len(perm))) else im.build("transpose", taken, perm=perm)


@rule("Gather")
def _gather(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x = im.value(xs[0])
    axis = im.axis(attrs.get("axis", 0), x.type.rank)
    size, index = x.type.shape[axis], xs[1]
    if isinstance(index, np.ndarray) and index.ndim == 0:
        at = dim(index[()]) if isinstance(index[()], sympy.Expr) else int(index[()])
        at = dim(size + at) if isinstance(at, int) and at < 0 else at
        return im.build.reshape(cut(im, x, axis, at, at + 1), tuple(d for i, d in enumerate(x.type.shape) if i != axis))
    return keep_sign(im, x, take_axis(im, x, axis, plain_index(im, index, size)))


@rule("GatherElements")
def _gather_elements(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x = im.value(xs[0])
    last = x.type.rank - 1
    axis = im.axis(attrs.get("axis", 0), x.type.rank)
    index = plain_index(im, xs[1], x.type.shape[axis])
    perm = list(range(x.type.rank))
    perm[axis], perm[last] = last, axis
    if axis != last:
        x, index = (im.build("transpose", v, perm=tuple(perm)) for v in (x, index))
    for i in range(last):  # ONNX takes a leading part of the other axes
        x = cut(im, x, i, 0, index.type.shape[i])
    out = im.build("take_along", x, index)
    return out if axis == last else im.build("transpose", out, perm=tuple(perm))


@rule("GatherND")
def _gather_nd(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    """The indexed leading axes become one, and so do their indices."""
    x, index = im.value(xs[0]), im.value(xs[1], DType.i64)
    count, last = index.type.shape[-1], index.type.rank - 1
    if attrs.get("batch_dims", 0) or not isinstance(count, int):
        raise im.fail("batch_dims other than 0 is not covered")
    leading, place, outer = x.type.shape[:count], index.type.shape[:-1], None
    for i, size in enumerate(leading):
        part = keep_sign(im, index, im.build.reshape(cut(im, index, last, i, i + 1), place))
        part = plain_index(im, part, size)
        outer = part if outer is None else im.build("add", im.build("mul", outer, im.value(vector([size]).reshape(()))), part)
    assert outer is not None
    return keep_sign(im, x, im.build("take", im.build.reshape(x, (_numel(leading), *x.type.shape[count:])), outer))


@rule("ScatterND")
def _scatter_nd(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x, rows = im.value(xs[0]), im.value(xs[2])
    shape = im.shape(xs[1])
    if attrs.get("reduction", "none") != "none" or len(shape) != 2 or not same_dim(shape[1], 1):
        raise im.fail("only whole rows of the first axis, without a reduction, are covered")
    index = plain_index(im, xs[1], x.type.shape[0])
    return im.build("put_rows", x, im.build.reshape(index, shape[:1]), rows)


@rule("OneHot")
def _one_hot(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    depth = im.sizes(xs[1], "the depth")[0]
    index = plain_index(im, xs[0], depth)
    rank = index.type.rank + 1
    axis = im.axis(attrs.get("axis", -1), rank)
    column = im.build.reshape(index, (*index.type.shape[:axis], 1, *index.type.shape[axis:]))
    place = im.build.reshape(
        im.build("iota", size=depth, dtype="i64"), tuple(depth if i == axis else 1 for i in range(rank))
    )
    off, on = (im.build.reshape(part, ()) for part in (cut(im, im.value(xs[2]), 0, i, i + 1) for i in (0, 1)))
    return im.build("where", im.build("eq", place, column), on, off)


@rule("Constant")
def _constant(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Known:
    from .importer import array_of

    ((kind, value),) = attrs.items()
    if kind == "value":
        return array_of(value)
    if kind not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise im.fail(f"{kind} is not covered")
    return np.asarray(value, np.float32 if "float" in kind else np.int64)
