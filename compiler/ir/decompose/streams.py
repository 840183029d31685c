"""Decompositions of mHC and of the plain residual (see ops/streams.py). The Sinkhorn iterations are unrolled."""

from __future__ import annotations

from collections.abc import Mapping

from ..graph import Value
from ..opdef import Attrs
from .emit import Emit
from .table import plain, slotted

Named = Mapping[str, Value]


def sinkhorn(e: Emit, raw: Value, iterations: int, eps: float) -> Value:
    """Softmax over rows, then columns first, then rows and columns alternately; iterations counts the column steps."""

    def normalise(r: Value, axis: int) -> Value:
        return e.div(r, e.add(e.build("reduce_sum", r, axes=(axis,)), eps))

    r = normalise(e.add(e.build("softmax", raw), eps), 1)
    for _ in range(iterations - 1):
        r = normalise(normalise(r, 2), 1)
    return r


def _mix(e: Emit, t: Named, eps: float) -> Value:
    """phi times the normed streams, flattened: [T, rows of phi]."""
    return e.project(e.rms(e.flat(t["x"]), t.get("gamma"), eps), t["phi"])


def _combine(e: Emit, x: Value, weights: Value) -> Value:
    """sum_s weights[T, s] * x[T, s, H]."""
    tokens, n, _ = x.type.shape
    return e.total(e.mul(e.build.reshape(weights, (tokens, n, 1)), x), 1)


def pre(e: Emit, attrs: Attrs, x: Value, t: Named) -> dict[str, Value]:
    tokens, n, _ = x.type.shape
    mhc_eps = attrs["mhc_eps"]
    mixed = _mix(e, {**t, "x": x}, attrs["pre_eps"])

    def affine(index: int, start: int, stop: int) -> Value:
        alpha = e.build.reshape(e.part(t["alpha"], 0, index, index + 1), ())
        return e.add(e.mul(alpha, e.part(mixed, 1, start, stop)), e.part(t["beta"], 0, start, stop))

    h_pre = e.add(e.build("sigmoid", affine(0, 0, n)), mhc_eps)
    h_post = e.mul(e.build("sigmoid", affine(1, n, 2 * n)), 2.0)
    raw = e.build.reshape(affine(2, 2 * n, n * (n + 2)), (tokens, n, n))
    y = _combine(e, x, h_pre)
    y = e.rms(y, t["norm"], attrs["norm_eps"]) if "norm" in t else y
    return {"y": y, "new_post": h_post, "new_res": sinkhorn(e, raw, attrs["iterations"], mhc_eps)}


def _branch(e: Emit, attrs: Attrs, t: Named) -> Value:
    return e.rms(t["out"], t["out_norm"], attrs["out_eps"]) if "out_norm" in t else t["out"]


def post(e: Emit, attrs: Attrs, t: Named) -> Value:
    """X'[j] = post[j] * norm(out) + sum_i R[i, j] * X[i], then the block_post norm of all streams together."""
    x = t["x"]
    tokens, n, h = x.type.shape
    kept = e.build("matmul", e.swap(t["res"], 1, 2), x)
    branch = e.build.reshape(_branch(e, attrs, t), (tokens, 1, h))
    out = e.add(e.mul(e.build.reshape(t["post"], (tokens, n, 1)), branch), kept)
    if "block_norm" not in t:
        return out
    return e.build.reshape(e.rms(e.flat(out), t["block_norm"], attrs["block_eps"]), (tokens, n, h))


@plain("sinkhorn")
def _sinkhorn(e: Emit, attrs: Attrs, raw: Value) -> Value:
    return sinkhorn(e, raw, attrs["iterations"], attrs["eps"])


@slotted("mhc_pre")
def _mhc_pre(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    return pre(e, attrs, t["x"], t)


@slotted("mhc_post")
def _mhc_post(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    return {"new_x": post(e, attrs, t)}


@slotted("mhc_post_pre")
def _mhc_post_pre(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    x = post(e, attrs, t)
    return {"new_x": x, **pre(e, attrs, x, t)}


@slotted("mhc_merge")
def _mhc_merge(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    gate = e.build("sigmoid", e.add(e.mul(t["alpha"], _mix(e, t, attrs["pre_eps"])), t["beta"]))
    return {"h": _combine(e, t["x"], e.add(gate, attrs["mhc_eps"]))}


@slotted("residual")
def _residual(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    x = e.add(t["x"], _branch(e, attrs, t))
    x = e.rms(x, t["block_norm"], attrs["block_eps"]) if "block_norm" in t else x
    results = {"new_x": x}
    if "norm" in t:
        results["y"] = e.rms(x, t["norm"], attrs["norm_eps"])
    return results
