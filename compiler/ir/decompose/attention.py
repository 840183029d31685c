"""Decompositions of the attention operators (see ops/attention.py), in the absorbed form: no per-head keys or values."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..graph import Value
from ..opdef import Attrs
from ..ops.attention import smaller
from ..types import Dim, dim
from .emit import Emit
from .norm import mome, rotate, window_positions, window_rows, write_ring
from .table import slotted

Named = Mapping[str, Value]


def _maybe_conv(e: Emit, t: Named, prefix: str, x: Value, results: dict[str, Value]) -> Value:
    if f"{prefix}_conv" not in t:
        return x
    y, results[f"new_{prefix}_ring"] = mome(e, x, t[f"{prefix}_conv"], t["start"], t[f"{prefix}_ring"])
    return y


@slotted("mla_prologue")
def _mla_prologue(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    u, table, heads, d = t["u"], t["table"], attrs["heads"], attrs["head_dim"]
    tokens, rope = u.type.shape[0], table.type.shape[1]
    results: dict[str, Value] = {}
    low = u
    if "q_a" in t:
        low = e.rms(_maybe_conv(e, t, "q", e.project(u, t["q_a"]), results), t["q_norm"], attrs["q_eps"])
    q = e.build.reshape(e.project(low, t["q_b"]), (tokens, heads, d))
    kv = e.project(u, t["kv_a"])
    width = kv.type.shape[1]
    compressed = _maybe_conv(e, t, "kv", e.part(kv, 1, 0, width - rope), results)
    c = e.rms(compressed, t["kv_norm"], attrs["kv_eps"])
    latent = e.build("concat", c, rotate(e, e.part(kv, 1, width - rope, width), table, 0), axis=1)
    results |= {"q": rotate(e, q, table, d - rope), "qr": low, "latent": latent}
    if "cache" in t:
        results["new_cache"] = e.build("concat", t["cache"], latent, axis=0)
    return results


@slotted("index_prologue")
def _index_prologue(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    u, table, heads = t["u"], t["table"], attrs["heads"]
    q = e.build.reshape(e.project(t["qr"], t["wq_b"]), (u.type.shape[0], heads, t["cache"].type.shape[1]))
    k = e.project(u, t["wk"])
    if "k_beta" in t:
        k = e.sub(k, e.mean(k))
    k = e.rms(k, t["k_gamma"], attrs["k_eps"])
    k = e.add(k, t["k_beta"]) if "k_beta" in t else k
    return {
        "iq": rotate(e, q, table, 0),
        "iw": e.mul(e.project(u, t["weights_proj"]), attrs["scale"]),
        "new_cache": e.build("concat", t["cache"], rotate(e, k, table, 0), axis=0),
    }


def _rows_times(e: Emit, x: Value, matrix: Value) -> Value:
    """x[T, h, C] times matrix[C, N] -> [T, h, N]."""
    tokens, heads, width = x.type.shape
    flat = e.build.reshape(x, (dim(tokens * heads), width))
    return e.build.reshape(e.build("matmul", flat, matrix), (tokens, heads, matrix.type.shape[1]))


def _attend(e: Emit, attrs: Attrs, t: Named, keys: Value, visible: Value) -> Value:
    """keys [N, C + r] or [T, N, C + r]; visible [T, N] -> [T, h * v]. Sinks are outside of every mask."""
    q, nope = t["q"], attrs["nope"]
    tokens, heads, d = q.type.shape
    latent = t["kv_b"].type.shape[1]
    kv_b = e.build.reshape(e.build.cast(t["kv_b"], q.type.dtype), (heads, nope + attrs["v"], latent))
    absorbed = e.swap(e.build("matmul", e.swap(e.part(q, 2, 0, nope), 0, 1), e.part(kv_b, 1, 0, nope)), 0, 1)
    query = e.mul(e.join([absorbed, e.part(q, 2, nope, d)], 2), attrs["scale"])
    shared = keys.type.rank == 2
    scores = _rows_times(e, query, e.swap(keys, 0, 1)) if shared else e.build("matmul", query, e.swap(keys, 1, 2))
    seen = e.build.reshape(visible, (tokens, 1, visible.type.shape[1]))
    scores = e.build("where", seen, scores, e.build.constant(-math.inf, scores.type.dtype))
    sinks = t.get("sinks")
    count: Dim = 0 if sinks is None else sinks.type.shape[0]
    if sinks is not None:
        scores = e.build("concat", _rows_times(e, query, e.swap(sinks, 0, 1)), scores, axis=2)
    weights = e.build("softmax", scores)
    own, values = e.part(weights, 2, count, scores.type.shape[2]), e.part(keys, keys.type.rank - 1, 0, latent)
    mixed = _rows_times(e, own, values) if shared else e.build("matmul", own, values)
    if sinks is not None:
        mixed = e.add(mixed, _rows_times(e, e.part(weights, 2, 0, count), e.part(sinks, 1, 0, latent)))
    value_half = e.swap(e.part(kv_b, 1, nope, nope + attrs["v"]), 1, 2)
    return e.flat(e.swap(e.build("matmul", e.swap(mixed, 0, 1), value_half), 0, 1))


@slotted("swa_attention")
def _swa(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    latent, ring, start, window = t["latent"], t["ring"], t["start"], attrs["window"]
    tokens = latent.type.shape[0]
    position = window_positions(e, start, tokens, window - 1)
    keys = window_rows(e, ring, latent, start, position)
    own = e.add(start, e.iota(tokens))
    count = dim(tokens + window - 1)
    distance = e.sub(e.build.reshape(own, (tokens, 1)), e.build.reshape(position, (1, count)))
    visible = e.build("logical_and", e.build.reshape(e.binary("ge", position, 0), (1, count)), e.binary("ge", distance, 0))
    visible = e.build("logical_and", visible, e.binary("lt", distance, window))
    return {"out": _attend(e, attrs, t, keys, visible), "new_ring": write_ring(e, ring, latent, own)}


def _causal(e: Emit, tokens: Dim, rows: Dim) -> tuple[Value, Value]:
    """(bool[T, rows]: may query t see row s?, i64[T, 1]: the row of query t)."""
    own = e.add(e.build("size", value=dim(rows - tokens)), e.iota(tokens))
    own = e.build.reshape(own, (tokens, 1))
    return e.build("le", e.build.reshape(e.iota(rows), (1, rows)), own), own


@slotted("dense_attention")
def _dense(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    visible, _ = _causal(e, t["q"].type.shape[0], t["cache"].type.shape[0])
    return {"out": _attend(e, attrs, t, t["cache"], visible)}


@slotted("dsa_attention")
def _dsa(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    iq, rows = t["iq"], t["cache"].type.shape[0]
    tokens, heads, _ = iq.type.shape
    causal, own = _causal(e, tokens, rows)
    dots = e.build("relu", e.mul(_rows_times(e, iq, e.swap(t["index_cache"], 0, 1)), attrs["index_scale"]))
    scores = e.total(e.mul(dots, e.build.reshape(t["iw"], (tokens, heads, 1))), 1)
    scores = e.build("where", causal, scores, e.build.constant(-math.inf, scores.type.dtype))
    _, chosen = e.build.multi("topk", scores, k=smaller(attrs["topk"], rows))
    keys = e.build("take", t["cache"], chosen)
    return {"out": _attend(e, attrs, t, keys, e.build("le", chosen, own))}


@slotted("attention_output")
def _attention_output(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    results: dict[str, Value] = {}
    x = _maybe_conv(e, t, "o", t["a"], results)
    return {**results, "out": e.project(x, t["o_proj"])}
