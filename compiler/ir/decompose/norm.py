"""Decompositions of norms, linear layers, rotary embedding, rings and the MoME convolution (see ops/norm.py)."""

from __future__ import annotations

from collections.abc import Mapping

from ..graph import Value
from ..opdef import Attrs
from ..types import Dim, DType, dim
from .emit import Emit
from .table import plain, slotted


@plain("rms_norm")
def _rms_norm(e: Emit, attrs: Attrs, x: Value, gamma: Value) -> Value:
    return e.rms(x, gamma, attrs["eps"])


@plain("layer_norm")
def _layer_norm(e: Emit, attrs: Attrs, x: Value, gamma: Value, beta: Value) -> Value:
    return e.add(e.rms(e.sub(x, e.mean(x)), gamma, attrs["eps"]), beta)


@plain("linear")
def _linear(e: Emit, attrs: Attrs, x: Value, weight: Value) -> Value:
    return e.project(x, weight)


@plain("rotary_table")
def _rotary_table(e: Emit, attrs: Attrs, positions: Value) -> Value:
    half, tokens = attrs["dim"] // 2, positions.type.shape[0]
    exponent = e.div(e.mul(e.iota(half, DType.f64), 2.0), -float(attrs["dim"]))
    frequency = e.binary("pow", attrs["theta"], exponent)
    column = e.build.reshape(e.build.cast(positions, DType.f64), (tokens, 1))
    angle = e.mul(column, e.build.reshape(frequency, (1, half)))
    return e.build("concat", *(e.build.cast(e.build(op, angle), DType.f32) for op in ("cos", "sin")), axis=1)


def rotate(e: Emit, x: Value, table: Value, offset: int) -> Value:
    """Half rotation of x[.., offset : offset + d] by table [T, d]; x is [T, D] or [T, heads, D]."""
    axis, tokens, d = x.type.rank - 1, x.type.shape[0], int(table.type.shape[1])
    half = d // 2
    cos, sin = e.part(table, 1, 0, half), e.part(table, 1, half, d)
    if axis == 2:
        cos, sin = (e.build.reshape(v, (tokens, 1, half)) for v in (cos, sin))
    first, second = e.part(x, axis, offset, offset + half), e.part(x, axis, offset + half, offset + d)
    turned = [e.sub(e.mul(first, cos), e.mul(second, sin)), e.add(e.mul(second, cos), e.mul(first, sin))]
    before, after = (0, offset), (offset + d, x.type.shape[axis])
    parts = [e.part(x, axis, *before)] if offset else []
    parts += turned
    parts += [e.part(x, axis, *after)] if after[0] != after[1] else []
    return e.build("concat", *parts, axis=axis)


@plain("rotary")
def _rotary(e: Emit, attrs: Attrs, x: Value, table: Value) -> Value:
    return rotate(e, x, table, attrs["offset"])


def window_positions(e: Emit, start: Value, tokens: Dim, length: int) -> Value:
    """Positions start - length .. start + T - 1: i64[T + length]."""
    return e.add(e.sub(start, length), e.iota(tokens + length))


def window_rows(e: Emit, ring: Value, new: Value, start: Value, position: Value) -> Value:
    """Rows of those positions, from the ring (positions below start) and from the call's own rows."""
    rows = int(ring.type.shape[0])
    own = e.add(e.sub(position, start), rows)
    source = e.build("where", e.build("lt", position, start), e.binary("remainder", position, rows), own)
    return e.build("take", e.build("concat", ring, new, axis=0), source)


def write_ring(e: Emit, ring: Value, new: Value, own: Value) -> Value:
    """The ring after rows `new` of positions `own`; later ones win."""
    return e.build("put_rows", ring, e.binary("remainder", own, int(ring.type.shape[0])), new)


def mome(e: Emit, x: Value, weight: Value, start: Value, ring: Value) -> tuple[Value, Value]:
    """x + causal depthwise convolution (nothing is added at positions below k - 1), and the new ring."""
    tokens, channels = x.type.shape
    taps = int(weight.type.shape[2])
    history = taps - 1
    position = window_positions(e, start, tokens, history)
    rows = window_rows(e, ring, x, start, position)
    matrix = e.build.cast(e.build.reshape(weight, (channels, taps)), x.type.dtype)
    summed: Value | None = None
    for tap in range(taps):
        column = e.build.reshape(e.part(matrix, 1, tap, tap + 1), (channels,))
        term = e.mul(e.part(rows, 0, tap, dim(tokens + tap)), column)
        summed = term if summed is None else e.add(summed, term)
    assert summed is not None
    own = e.part(position, 0, history, dim(tokens + history))
    late = e.build.reshape(e.binary("ge", own, history), (tokens, 1))
    return e.build("where", late, e.add(x, summed), x), write_ring(e, ring, x, own)


@slotted("mome_conv")
def _mome_conv(e: Emit, attrs: Attrs, t: Mapping[str, Value]) -> dict[str, Value]:
    y, ring = mome(e, t["x"], t["weight"], t["start"], t["ring"])
    return {"y": y, "new_ring": ring}
