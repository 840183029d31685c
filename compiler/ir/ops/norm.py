"""Norms, linear layers, rotary embedding and the MoME convolution: the first level of fusion.

Formulas: shared specification of openpangu_v2, "Forward pass". Shapes: T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..opdef import Attrs, Cost, Env, OpDef, default_cost, define
from ..slots import Signature
from ..types import Dim, DType, IRError, TensorType, dim, product, same_dim, same_shape
from .pointwise import sigmoid

Arrays = Sequence[np.ndarray]
Types = Sequence[TensorType]


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise IRError(what)


def rms(x: np.ndarray, gamma: np.ndarray | None, eps: float) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * gamma over the last axis."""
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return y if gamma is None else y * gamma


def silu(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(x)


def weight_type(w: TensorType, *shape: Dim) -> None:
    """A matrix in any storage format. IRError where the shape or dtype does not fit."""
    expect(w.dtype.is_weight and same_shape(w.shape, shape), f"weight {w}, expected [{', '.join(map(str, shape))}]")


def _infer_norm(types: Types, attrs: Attrs) -> list[TensorType]:
    x, *parameters = types
    expect(x.dtype.is_float and x.rank >= 1, f"norm of {x}")
    for p in parameters:
        expect(p.dtype == x.dtype and same_shape(p.shape, x.shape[-1:]), f"norm of {x} with parameter {p}")
    return [x]


def _layer_norm(a: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    x, gamma, beta = a
    centred = x - x.mean(-1, keepdims=True)
    return [centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + attrs["eps"]) * gamma + beta]


def _infer_linear(types: Types, attrs: Attrs) -> list[TensorType]:
    x, w = types
    expect(x.dtype.is_float and x.rank == 2 and w.rank == 2, f"linear of {x} and {w}")
    weight_type(w, w.shape[0], x.shape[1])
    return [TensorType(x.dtype, (x.shape[0], w.shape[0]))]


def linear_cost(rows: Dim, *weights: TensorType) -> Cost:
    """Products of `rows` rows with matrices that are read once."""
    return Cost(dim(sum(2 * rows * w.numel for w in weights)), dim(sum(w.nbytes for w in weights)))


def activations(*types: TensorType) -> Dim:
    return dim(sum(t.nbytes for t in types))


def _linear_cost(inputs: Types, outputs: Types, attrs: Attrs) -> Cost:
    base = linear_cost(inputs[0].shape[0], inputs[1])
    return Cost(base.flops, dim(base.bytes + activations(inputs[0], *outputs)))


def _infer_table(types: Types, attrs: Attrs) -> list[TensorType]:
    expect(types[0].dtype is DType.i64 and types[0].rank == 1, f"rotary_table of {types[0]}")
    expect(attrs["dim"] > 0 and attrs["dim"] % 2 == 0, f"rotary_table of odd dim {attrs['dim']}")
    return [TensorType(DType.f32, (types[0].shape[0], attrs["dim"]))]


def _table(a: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    half = np.arange(0, attrs["dim"], 2, dtype=np.float64)
    angle = a[0].astype(np.float64)[:, None] * np.power(attrs["theta"], -half / attrs["dim"])[None, :]
    return [np.concatenate([np.cos(angle), np.sin(angle)], -1)]


def rotate(x: np.ndarray, table: np.ndarray, offset: int) -> np.ndarray:
    """Half rotation of x[.., offset : offset + d] by table [T, d]; x is [T, D] or [T, heads, D]."""
    d = table.shape[-1]
    cos, sin = table[:, : d // 2], table[:, d // 2 :]
    if x.ndim == 3:
        cos, sin = cos[:, None], sin[:, None]
    first, second = x[..., offset : offset + d // 2], x[..., offset + d // 2 : offset + d]
    out = np.array(x)
    out[..., offset : offset + d // 2] = first * cos - second * sin
    out[..., offset + d // 2 : offset + d] = second * cos + first * sin
    return out


def _infer_rotary(types: Types, attrs: Attrs) -> list[TensorType]:
    x, table = types
    expect(x.rank in (2, 3) and table.rank == 2 and same_dim(x.shape[0], table.shape[0]), f"rotary of {x} by {table}")
    expect(0 <= attrs["offset"] <= x.shape[-1] - table.shape[1], f"rotary of {x} at {attrs['offset']} by {table}")
    return [x]


def _infer_conv(types: Types, attrs: Attrs) -> list[TensorType]:
    CONV.check(attrs)
    x, weight, start, ring = types
    conv_types(x, weight, start, ring)
    return [x, ring]


def conv_types(x: TensorType, weight: TensorType, start: TensorType, ring: TensorType) -> None:
    expect(x.rank == 2 and weight.rank == 3 and ring.rank == 2, f"convolution of {x} by {weight} with state {ring}")
    channels = x.shape[1]
    expect(same_shape(weight.shape[:2], (channels, 1)) and same_dim(ring.shape[1], channels), f"convolution of {x} by {weight}")
    expect(start.dtype is DType.i64 and start.rank == 0, f"start {start}")
    expect(int(ring.shape[0]) >= int(weight.shape[2]) - 1, f"ring {ring} is too short for a kernel of {weight.shape[2]}")


def window_rows(ring: np.ndarray, new: np.ndarray, start: int, length: int) -> np.ndarray:
    """Rows of positions start - length .. start + T - 1, from the ring and the call's own rows."""
    position = start - length + np.arange(new.shape[0] + length)
    return np.concatenate([ring, new], 0)[np.where(position < start, position % len(ring), position - start + len(ring))]


def write_ring(ring: np.ndarray, new: np.ndarray, start: int) -> np.ndarray:
    """The ring after the rows of positions start, start + 1, ..; later ones win."""
    out = np.array(ring)
    keep = min(len(new), len(ring))
    at = start + len(new) - keep + np.arange(keep)
    out[at % len(ring)] = new[len(new) - keep :]
    return out


def mome(x: np.ndarray, weight: np.ndarray, start: int, ring: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x + causal depthwise convolution (nothing is added at positions below k - 1), and the new ring."""
    k = weight.shape[2]
    rows = window_rows(ring, x, start, k - 1)
    total = sum(rows[j : j + len(x)] * weight[:, 0, j] for j in range(k))
    own = start + np.arange(len(x))
    return np.where((own >= k - 1)[:, None], x + total, x), write_ring(ring, x, start)


def _conv(a: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    return list(mome(a[0], a[1], int(a[2]), a[3]))


def _conv_cost(inputs: Types, outputs: Types, attrs: Attrs) -> Cost:
    x, weight = inputs[:2]
    k = weight.shape[2]
    history = product(weight.shape[:2]) * (k - 1) * 4
    return Cost(dim(2 * k * x.numel), dim(2 * x.nbytes + weight.nbytes + 2 * history))


FLOAT: dict[str, tuple[type, ...]] = {"eps": (float,)}


def op(name: str, arity: int, infer: Any, evaluate: Any, attrs: dict[str, tuple[type, ...]], doc: str, **rest: Any) -> None:
    define(OpDef(name, arity, infer, evaluate, attrs, kind="fused", doc=doc, **{"cost": default_cost, **rest}))


op("rms_norm", 2, _infer_norm, lambda a, t, e: [rms(a[0], a[1], t["eps"])], FLOAT,
   "x[..., C] / sqrt(mean(x^2) + eps) * gamma[C].")  # fmt: skip
op("layer_norm", 3, _infer_norm, _layer_norm, FLOAT, "(x - mean) / sqrt(variance + eps) * gamma[C] + beta[C].")
op("linear", 2, _infer_linear, lambda a, t, e: [a[0] @ a[1].T], {}, "x[T, I] times w[O, I] transposed.",
   cost=_linear_cost, tolerance=1e-4)  # fmt: skip
op("rotary_table", 1, _infer_table, _table, {"dim": (int,), "theta": (float,)},
   "[T, dim]: cos, then sin, of position * theta^(-2i/dim), angles in float64.")  # fmt: skip
op("rotary", 2, _infer_rotary, lambda a, t, e: [rotate(a[0], a[1], t["offset"])], {"offset": (int,)},
   "Half rotation (NeoX order) of the channels from `offset` on; x[T, D] or x[T, heads, D], table[T, d].")  # fmt: skip
CONV = Signature(("x", "weight", "start", "ring"), ("y", "new_ring"))
op("mome_conv", 4, _infer_conv, _conv, {"slots": (tuple,), "results": (tuple,)},
   "(x[T, C], weight[C, 1, k], start, ring[R, C]) -> x + causal convolution, new ring. Position p is ring row p % R.",
   cost=_conv_cost, updates={"new_ring": "ring"}, signature=CONV)  # fmt: skip
