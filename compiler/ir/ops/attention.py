"""Latent attention (MLA): projections with their convolutions, norms, rotary embedding and cache writes; the three
attention variants over the latent cache with sinks; the output projection.

T tokens, S rows cached before the call, h heads, C = kv_lora_rank, r = qk_rope_head_dim, n = qk_nope_head_dim,
v = v_head_dim. A latent row is (c [C], k_pe [r]). Rotary channels come last in main heads and first in indexer heads.
Formulas: shared specification, "Attention". A query's own position is S + t (append caches) or start + t (rings).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import sympy

from ..opdef import Attrs, Cost, Env, OpDef, define
from ..slots import Signature, named, ordered
from ..types import Dim, TensorType, dim, same_dim, same_shape
from .norm import activations, conv_types, expect, linear_cost, mome, rms, rotate, weight_type, window_rows, write_ring

Arrays = Sequence[np.ndarray]
Types = Sequence[TensorType]
Named = Mapping[str, np.ndarray]
NAMES: dict[str, tuple[type, ...]] = {"slots": (tuple,), "results": (tuple,)}


def smaller(a: Dim, b: Dim) -> Dim:
    """min of two sizes, symbolic where one is."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else dim(sympy.Min(a, b))


def _maybe_conv(a: Named, prefix: str, x: np.ndarray, results: dict[str, np.ndarray]) -> np.ndarray:
    if f"{prefix}_conv" not in a:
        return x
    y, results[f"new_{prefix}_ring"] = mome(x, a[f"{prefix}_conv"], int(a["start"]), a[f"{prefix}_ring"])
    return y


def _check_conv(t: Mapping[str, TensorType], prefix: str, x: TensorType) -> None:
    expect((f"{prefix}_conv" in t) == (f"{prefix}_ring" in t), f"{prefix}_conv and {prefix}_ring come together")
    if f"{prefix}_conv" in t:
        expect("start" in t, "a convolution needs start")
        conv_types(x, t[f"{prefix}_conv"], t["start"], t[f"{prefix}_ring"])


def _grown(cache: TensorType, rows: TensorType) -> TensorType:
    return TensorType(cache.dtype, (dim(cache.shape[0] + rows.shape[0]), cache.shape[1]))


# Prologues.


def _infer_prologue(types: Types, attrs: Attrs) -> list[TensorType]:
    PROLOGUE.check(attrs)
    t, heads, d = named(attrs, types), attrs["heads"], attrs["head_dim"]
    u = t["u"]
    expect(u.rank == 2 and u.dtype.is_float, f"input {u}")
    tokens, hidden = u.shape
    low = t["q_a"].shape[0] if "q_a" in t else hidden
    if "q_a" in t:
        weight_type(t["q_a"], low, hidden)
        expect("q_norm" in t and same_shape(t["q_norm"].shape, (low,)), f"q_norm {t.get('q_norm')}")
    weight_type(t["q_b"], heads * d, low)
    width = t["kv_a"].shape[0]
    weight_type(t["kv_a"], width, hidden)
    latent = dim(width - t["table"].shape[1])
    expect(same_shape(t["kv_norm"].shape, (latent,)), f"kv_norm {t['kv_norm']} for {width} latent values")
    _check_conv(t, "q", TensorType(u.dtype, (tokens, low)))
    _check_conv(t, "kv", TensorType(u.dtype, (tokens, latent)))
    row = TensorType(u.dtype, (tokens, width))
    results = {
        "q": TensorType(u.dtype, (tokens, heads, d)), "qr": TensorType(u.dtype, (tokens, low)), "latent": row,
        **{f"new_{p}_ring": t[f"{p}_ring"] for p in ("q", "kv") if f"{p}_ring" in t},
    }  # fmt: skip
    if "cache" in t:
        expect(same_dim(t["cache"].shape[1], width), f"cache {t['cache']} for {width} latent values")
        results["new_cache"] = _grown(t["cache"], row)
    return ordered(attrs, results)


def _prologue(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    a = named(attrs, arrays)
    u, table = a["u"], a["table"]
    results: dict[str, np.ndarray] = {}
    low = u
    if "q_a" in a:
        low = rms(_maybe_conv(a, "q", u @ a["q_a"].T, results), a["q_norm"], attrs["q_eps"])
    q = (low @ a["q_b"].T).reshape(len(u), attrs["heads"], attrs["head_dim"])
    kv = u @ a["kv_a"].T
    split = kv.shape[1] - table.shape[1]
    c = rms(_maybe_conv(a, "kv", kv[:, :split], results), a["kv_norm"], attrs["kv_eps"])
    latent = np.concatenate([c, rotate(kv[:, split:], table, 0)], -1)
    results |= {"q": rotate(q, table, attrs["head_dim"] - table.shape[1]), "qr": low, "latent": latent}
    if "cache" in a:
        results["new_cache"] = np.concatenate([a["cache"], latent])
    return ordered(attrs, results)


def _prologue_cost(inputs: Types, outputs: Types, attrs: Attrs) -> Cost:
    t = named(attrs, inputs)
    weights = [t[n] for n in ("q_a", "q_b", "kv_a", "wq_b", "wk", "weights_proj") if n in t]
    base = linear_cost(t["u"].shape[0], *weights)
    rest = [x for n, x in t.items() if n not in ("cache", "q_a", "q_b", "kv_a", "wq_b", "wk", "weights_proj")]
    fresh = [o for o, n in zip(outputs, attrs["results"], strict=True) if n != "new_cache"]
    width = t["cache"].shape[1] if "cache" in t else 0
    return Cost(base.flops, dim(base.bytes + activations(*rest, *fresh) + t["u"].shape[0] * width * 4))


def _infer_index(types: Types, attrs: Attrs) -> list[TensorType]:
    INDEX.check(attrs)
    t, heads = named(attrs, types), attrs["heads"]
    u, width = t["u"], t["cache"].shape[1]
    tokens = u.shape[0]
    weight_type(t["wq_b"], heads * width, t["qr"].shape[1])
    weight_type(t["wk"], width, u.shape[1])
    weight_type(t["weights_proj"], heads, u.shape[1])
    expect(t["table"].shape[1] <= width, f"rotary {t['table']} for keys of {width}")
    for name in ("k_gamma", "k_beta"):
        expect(name not in t or same_shape(t[name].shape, (width,)), f"{name} {t.get(name)}")
    results = {
        "iq": TensorType(u.dtype, (tokens, heads, width)), "iw": TensorType(u.dtype, (tokens, heads)),
        "new_cache": _grown(t["cache"], TensorType(u.dtype, (tokens, width))),
    }  # fmt: skip
    return ordered(attrs, results)


def _index(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    a = named(attrs, arrays)
    u, table = a["u"], a["table"]
    iq = rotate((a["qr"] @ a["wq_b"].T).reshape(len(u), attrs["heads"], -1), table, 0)
    k = u @ a["wk"].T
    if "k_beta" in a:
        k = k - k.mean(-1, keepdims=True)
    k = rms(k, a["k_gamma"], attrs["k_eps"]) + a.get("k_beta", 0.0)
    results = {"iq": iq, "iw": u @ a["weights_proj"].T * attrs["scale"]}
    return ordered(attrs, results | {"new_cache": np.concatenate([a["cache"], rotate(k, table, 0)])})


# Attention.


def joint_softmax(scores: np.ndarray, sink_scores: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Softmax over sinks and keys together: (weights of the keys, weights of the sinks). -inf scores weigh 0."""
    peak = scores.max(-1, keepdims=True)
    if sink_scores is not None:
        peak = np.maximum(peak, sink_scores.max(-1, keepdims=True))
    with np.errstate(invalid="ignore"):
        e = np.exp(scores - peak)
    if sink_scores is None:
        return e / e.sum(-1, keepdims=True), None
    s = np.exp(sink_scores - peak)
    total = e.sum(-1, keepdims=True) + s.sum(-1, keepdims=True)
    return e / total, s / total


def _attend(a: Named, attrs: Attrs, keys: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """keys [N, C + r] or [T, N, C + r]; visible [T, N] -> [T, h * v]. Sinks are outside of every mask."""
    q, scale = a["q"], attrs["scale"]
    tokens, heads, _ = q.shape
    nope, latent = attrs["nope"], a["kv_b"].shape[1]
    kv_b = a["kv_b"].reshape(heads, -1, latent)
    query = np.concatenate([np.einsum("thn,hnc->thc", q[..., :nope], kv_b[:, :nope]), q[..., nope:]], -1) * scale
    form = "thc,nc->thn" if keys.ndim == 2 else "thc,tnc->thn"
    scores = np.where(visible[:, None, :], np.einsum(form, query, keys), -np.inf)
    sinks = a.get("sinks")
    weights, sink_weights = joint_softmax(scores, None if sinks is None else np.einsum("thc,sc->ths", query, sinks))
    form = "thn,nc->thc" if keys.ndim == 2 else "thn,tnc->thc"
    mixed = np.einsum(form, weights, keys[..., :latent])
    if sinks is not None and sink_weights is not None:
        mixed = mixed + np.einsum("ths,sc->thc", sink_weights, sinks[:, :latent])
    return np.einsum("thc,hvc->thv", mixed, kv_b[:, nope:]).reshape(tokens, -1)


def _swa(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    a = named(attrs, arrays)
    start, window, latent = int(a["start"]), attrs["window"], a["latent"]
    keys = window_rows(a["ring"], latent, start, window - 1)
    position = start - (window - 1) + np.arange(len(keys))
    distance = (start + np.arange(len(latent)))[:, None] - position[None, :]
    visible = (position >= 0)[None, :] & (distance >= 0) & (distance < window)
    results = {"out": _attend(a, attrs, keys, visible), "new_ring": write_ring(a["ring"], latent, start)}
    return ordered(attrs, results)


def _causal(tokens: int, rows: int) -> np.ndarray:
    return np.arange(rows)[None, :] <= (rows - tokens + np.arange(tokens))[:, None]


def _dense(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    a = named(attrs, arrays)
    return [_attend(a, attrs, a["cache"], _causal(len(a["q"]), len(a["cache"])))]


def index_scores(iq: np.ndarray, iw: np.ndarray, keys: np.ndarray, scale: float) -> np.ndarray:
    """score[t, s] = sum_h iw[t, h] * relu(iq[t, h] . keys[s] * scale)."""
    dots = np.maximum(np.einsum("thd,sd->ths", iq, keys) * scale, 0)
    return np.einsum("th,ths->ts", iw, dots)


def _dsa(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    a = named(attrs, arrays)
    tokens, rows = len(a["q"]), len(a["cache"])
    causal = _causal(tokens, rows)
    scores = np.where(causal, index_scores(a["iq"], a["iw"], a["index_cache"], attrs["index_scale"]), -np.inf)
    chosen = np.argsort(-scores, -1, kind="stable")[:, : attrs["topk"]]
    visible = np.take_along_axis(causal, chosen, -1)
    return [_attend(a, attrs, a["cache"][chosen], visible)]


def _check_attention(types: Types, attrs: Attrs, signature: Signature) -> tuple[dict[str, TensorType], TensorType]:
    signature.check(attrs)
    t = named(attrs, types)
    q, kv_b = t["q"], t["kv_b"]
    expect(q.rank == 3 and q.dtype.is_float and kv_b.rank == 2, f"query {q}, kv_b {kv_b}")
    tokens, heads, d = q.shape
    latent = kv_b.shape[1]
    weight_type(kv_b, heads * (attrs["nope"] + attrs["v"]), latent)
    width = dim(latent + d - attrs["nope"])
    for name in ("latent", "ring", "cache", "sinks"):
        expect(name not in t or same_dim(t[name].shape[1], width), f"{name} {t.get(name)}: rows of {width} expected")
    return t, TensorType(q.dtype, (tokens, dim(heads * attrs["v"])))


def _infer_swa(types: Types, attrs: Attrs) -> list[TensorType]:
    t, out = _check_attention(types, attrs, SWA)
    expect(int(t["ring"].shape[0]) >= attrs["window"] - 1, f"ring {t['ring']} for a window of {attrs['window']}")
    expect(same_dim(t["latent"].shape[0], t["q"].shape[0]), f"latent {t['latent']} for queries {t['q']}")
    return ordered(attrs, {"out": out, "new_ring": t["ring"]})


def _infer_dense(types: Types, attrs: Attrs) -> list[TensorType]:
    return [_check_attention(types, attrs, DENSE)[1]]


def _infer_dsa(types: Types, attrs: Attrs) -> list[TensorType]:
    t, out = _check_attention(types, attrs, DSA)
    heads, width = t["iq"].shape[1:]
    rows = t["cache"].shape[0]
    expect(same_shape(t["iw"].shape, (t["q"].shape[0], heads)), f"iw {t['iw']} for {heads} index heads")
    expect(same_shape(t["index_cache"].shape, (rows, width)), f"index_cache {t['index_cache']} beside cache {t['cache']}")
    return [out]


def _attention_cost(inputs: Types, outputs: Types, attrs: Attrs) -> Cost:
    """Absorbed form: kv_b once, then every query against its keys in latent space; each cached row is read once.

    With sinks counted as rows. Rows that several queries of a call share are counted once for windows and dense
    attention; a sparse layer gathers per query.
    """
    t = named(attrs, inputs)
    tokens, heads, _ = t["q"].shape
    latent, width = t["kv_b"].shape[1], (t["ring"] if "ring" in t else t["cache"]).shape[1]
    sinks = t["sinks"].shape[0] if "sinks" in t else 0
    if "ring" in t:
        seen, read = attrs["window"] + sinks, attrs["window"] - 1 + tokens + sinks
    elif "iq" in t:
        chosen = smaller(attrs["topk"], t["cache"].shape[0])
        seen, read = chosen + sinks, chosen * tokens + sinks
    else:
        seen, read = t["cache"].shape[0] + sinks, t["cache"].shape[0] + sinks
    flops = 2 * tokens * t["kv_b"].numel + 2 * tokens * heads * seen * (width + latent)
    moved = t["kv_b"].nbytes + read * width * 4 + activations(t["q"], outputs[0])
    if "iq" in t:
        rows, (_, index_heads, index_width) = t["index_cache"].shape[0], t["iq"].shape
        flops += 2 * tokens * rows * index_heads * (index_width + 1)
        moved += t["index_cache"].nbytes + activations(t["iq"], t["iw"])
    if "ring" in t:
        moved += tokens * width * 4
    return Cost(dim(flops), dim(moved))


# Output.


def _infer_output(types: Types, attrs: Attrs) -> list[TensorType]:
    OUTPUT.check(attrs)
    t = named(attrs, types)
    a = t["a"]
    expect(a.rank == 2 and t["o_proj"].rank == 2, f"attention result {a}")
    weight_type(t["o_proj"], t["o_proj"].shape[0], a.shape[1])
    _check_conv(t, "o", a)
    return ordered(attrs, {"out": TensorType(a.dtype, (a.shape[0], t["o_proj"].shape[0])), "new_o_ring": t.get("o_ring", a)})


def _output(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    a = named(attrs, arrays)
    results: dict[str, np.ndarray] = {}
    x = _maybe_conv(a, "o", a["a"], results)
    return ordered(attrs, results | {"out": x @ a["o_proj"].T})


def _output_cost(inputs: Types, outputs: Types, attrs: Attrs) -> Cost:
    t = named(attrs, inputs)
    base = linear_cost(t["a"].shape[0], t["o_proj"])
    rest = [x for n, x in t.items() if n != "o_proj"]
    return Cost(base.flops, dim(base.bytes + activations(*rest, *outputs)))


PROLOGUE = Signature(
    ("u", "q_a", "q_conv", "q_ring", "q_norm", "q_b", "kv_a", "kv_conv", "kv_ring", "kv_norm", "table", "start", "cache"),
    ("q", "qr", "latent", "new_cache", "new_q_ring", "new_kv_ring"),
    frozenset({"q_a", "q_conv", "q_ring", "q_norm", "kv_conv", "kv_ring", "start", "cache", "qr", "latent", "new_cache",
               "new_q_ring", "new_kv_ring"}),
)  # fmt: skip
INDEX = Signature(
    ("u", "qr", "wq_b", "wk", "k_gamma", "k_beta", "weights_proj", "table", "cache"), ("iq", "iw", "new_cache"),
    frozenset({"k_beta"}),
)  # fmt: skip
SWA = Signature(("q", "latent", "ring", "start", "kv_b", "sinks"), ("out", "new_ring"), frozenset({"sinks"}))
DENSE = Signature(("q", "cache", "kv_b", "sinks"), ("out",), frozenset({"sinks"}))
DSA = Signature(("q", "cache", "iq", "iw", "index_cache", "kv_b", "sinks"), ("out",), frozenset({"sinks"}))
OUTPUT = Signature(("a", "o_conv", "o_ring", "start", "o_proj"), ("out", "new_o_ring"),
                   frozenset({"o_conv", "o_ring", "start", "new_o_ring"}))  # fmt: skip
# nope, v: channels of a head; expand_from: calls of that many tokens or more expand per-head keys and values, which
# is cheaper then (0: never). Both forms compute the same function.
_ATTEND: dict[str, tuple[type, ...]] = {**NAMES, "nope": (int,), "v": (int,), "scale": (float,), "expand_from": (int,)}

define(OpDef("mla_prologue", None, _infer_prologue, _prologue,
             {**NAMES, "heads": (int,), "head_dim": (int,), "q_eps": (float,), "kv_eps": (float,)}, kind="fused",
             cost=_prologue_cost, tolerance=1e-4, signature=PROLOGUE,
             updates={"new_cache": "cache", "new_q_ring": "q_ring", "new_kv_ring": "kv_ring"},
             doc="u[T, H] -> queries q[T, h, n + r] with rotary applied, their low-rank source qr[T, q_lora_rank], latent "
                 "rows[T, C + r], or the cache with these rows appended. Without q_a, q_b is q_proj and qr is u."))  # fmt: skip
define(OpDef("index_prologue", None, _infer_index, _index, {**NAMES, "heads": (int,), "k_eps": (float,), "scale": (float,)},
             kind="fused", cost=_prologue_cost, tolerance=1e-4, signature=INDEX, updates={"new_cache": "cache"},
             doc="The lightning indexer's queries iq[T, hi, di], head weights iw[T, hi] (scaled) and its key cache; k_beta "
                 "makes the key norm a LayerNorm."))  # fmt: skip
define(OpDef("swa_attention", None, _infer_swa, _swa, {**_ATTEND, "window": (int,)}, kind="fused", cost=_attention_cost,
             tolerance=1e-4, signature=SWA, updates={"new_ring": "ring"},
             doc="Sliding-window attention over a ring of latent rows and the call's own, with sinks: out[T, h * v]."))  # fmt: skip
define(OpDef("dense_attention", None, _infer_dense, _dense, _ATTEND, kind="fused", cost=_attention_cost, tolerance=1e-4,
             signature=DENSE, doc="Causal attention over the latent cache[S + T, C + r], with sinks: out[T, h * v]."))  # fmt: skip
define(OpDef("dsa_attention", None, _infer_dsa, _dsa, {**_ATTEND, "topk": (int,), "index_scale": (float,)}, kind="fused",
             cost=_attention_cost, tolerance=1e-4, signature=DSA,
             doc="Sparse attention: every query sees the `topk` causal rows of the highest indexer score (lowest index "
                 "first among equals), and the sinks: out[T, h * v]."))  # fmt: skip
define(OpDef("attention_output", None, _infer_output, _output, NAMES, kind="fused", cost=_output_cost, tolerance=1e-4,
             signature=OUTPUT, updates={"new_o_ring": "o_ring"},
             doc="o_proj of a[T, h * v] after its MoME convolution: out[T, H]."))  # fmt: skip
