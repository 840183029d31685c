"""Multi-token prediction: the token of a hidden row without its logits, and the verification of drafts.

K drafts, M rows, H hidden, V vocabulary. Everywhere the lowest index wins among equal logits. Verification gives
`accepted` (how many drafts stand), `tokens` [K+1] (the accepted drafts, then one token of the trunk's own, then -1) and
`length` = start + accepted + 1: how many positions now count. Rejected rows stay in the states and are masked by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..opdef import Attrs, Cost, Env, OpDef, define
from ..slots import Signature, named, ordered
from ..types import DType, TensorType, dim, same_dim, same_shape
from .attention import NAMES
from .norm import FLOAT, activations, expect, linear_cost, rms, weight_type

Arrays = Sequence[np.ndarray]
Types = Sequence[TensorType]
Named = Mapping[str, np.ndarray]
SCALAR = TensorType(DType.i64, ())


def _check_head(t: Mapping[str, TensorType]) -> None:
    x = t["x"]
    expect(x.rank == 2 and x.dtype.is_float, f"hidden rows {x}")
    weight_type(t["w"], t["w"].shape[0], x.shape[1])
    expect("gamma" not in t or same_shape(t["gamma"].shape, x.shape[1:]), f"gamma {t.get('gamma')} for {x}")


def _own_tokens(a: Named, attrs: Attrs) -> np.ndarray:
    x = rms(a["x"], a["gamma"], attrs["eps"]) if "gamma" in a else a["x"]
    return np.argmax(x @ a["w"].T, -1).astype(np.int64)


def _head_cost(inputs: Types, outputs: Types, attrs: Attrs) -> Cost:
    """The head's weights once; logits are compared as they are made and never stored."""
    t = named(attrs, inputs)
    base = linear_cost(t["x"].shape[0], t["w"])
    return Cost(base.flops, dim(base.bytes + activations(*(v for n, v in t.items() if n != "w"), *outputs)))


def _infer_argmax(types: Types, attrs: Attrs) -> list[TensorType]:
    ARGMAX.check(attrs)
    t = named(attrs, types)
    _check_head(t)
    return ordered(attrs, {"token": TensorType(DType.i64, t["x"].shape[:1])})


def _argmax(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    return ordered(attrs, {"token": _own_tokens(named(attrs, arrays), attrs)})


def _verdict(drafts: TensorType, start: TensorType) -> dict[str, TensorType]:
    """Types of a verification's results."""
    expect(drafts.dtype is DType.i64 and drafts.rank == 1, f"drafts {drafts}")
    expect(start.same(SCALAR), f"start {start}")
    return {"accepted": SCALAR, "tokens": TensorType(DType.i64, (dim(drafts.shape[0] + 1),)), "length": SCALAR}


def _finish(drafts: np.ndarray, accepted: int, own: int, start: int) -> dict[str, np.ndarray]:
    """Results of a verification that keeps `accepted` drafts and goes on with `own`."""
    tokens = np.full(len(drafts) + 1, -1, np.int64)
    tokens[:accepted], tokens[accepted] = drafts[:accepted], own
    return {"accepted": np.asarray(accepted), "tokens": tokens, "length": np.asarray(start + accepted + 1)}


def _infer_verify(types: Types, attrs: Attrs) -> list[TensorType]:
    VERIFY.check(attrs)
    t = named(attrs, types)
    _check_head(t)
    expect(same_dim(t["x"].shape[0], t["drafts"].numel + 1), f"{t['x']} for drafts {t['drafts']}")
    return ordered(attrs, _verdict(t["drafts"], t["start"]))


def _verify(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    a = named(attrs, arrays)
    own, drafts = _own_tokens(a, attrs), a["drafts"]
    accepted = int(np.cumprod(own[:-1] == drafts).sum())
    return ordered(attrs, _finish(drafts, accepted, int(own[accepted]), int(a["start"])))


# Sampling: the runtime's arithmetic (runtime/core/sampler.cpp), in float64 and in the same order of additions.


def distribution(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Probabilities f64[V]: temperature, then top-k, then top-p; what is filtered out gets exactly 0.

    temperature <= 0 puts all on the largest logit; top_k outside 1 .. V-1 and top_p >= 1 filter nothing.
    """
    x = logits.astype(np.float64)
    if temperature <= 0:
        p = np.zeros_like(x)
        p[np.argmax(x)] = 1
        return p
    p = np.exp((x - x.max()) / temperature)
    order = np.argsort(-p, kind="stable")
    kept = top_k if 0 < top_k < len(p) else len(p)
    if top_p < 1:
        seen = np.cumsum(p[order[:kept]])  # in order, as the runtime adds
        kept = 1 + int((seen[:-1] < top_p * seen[-1]).sum())
    p[order[kept:]] = 0
    return p / np.cumsum(p)[-1]


def draw(weights: np.ndarray, uniform: float) -> int:
    """Index drawn with these weights: the first whose running sum passes uniform * total (else the last positive one)."""
    seen = np.cumsum(weights)
    above = np.flatnonzero((uniform * seen[-1] < seen) & (weights > 0))
    return int(above[0]) if len(above) else int(np.flatnonzero(weights > 0)[-1])


def _check_sampling(t: Mapping[str, TensorType], rows: TensorType, uniforms: TensorType) -> None:
    expect(rows.rank == 2 and rows.dtype.is_float, f"logits {rows}")
    for name in ("temperature", "top_p"):
        expect(t[name].rank == 0 and t[name].dtype.is_float, f"{name} {t[name]}")
    expect(t["top_k"].same(SCALAR), f"top_k {t['top_k']}")
    expect(uniforms.dtype is DType.f64 and same_shape(uniforms.shape, rows.shape[:1]), f"uniform {uniforms} for {rows}")


def _filtered(a: Named) -> np.ndarray:
    settings = float(a["temperature"]), int(a["top_k"]), float(a["top_p"])
    return np.stack([distribution(row, *settings) for row in a["logits"]])


def _infer_sample(types: Types, attrs: Attrs) -> list[TensorType]:
    SAMPLE.check(attrs)
    t = named(attrs, types)
    rows = t["logits"]
    _check_sampling(t, rows, t["uniform"])
    return ordered(attrs, {"token": TensorType(DType.i64, rows.shape[:1]), "probs": TensorType(DType.f64, rows.shape)})


def _sample(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    a = named(attrs, arrays)
    probs = _filtered(a)
    token = [draw(p, u) for p, u in zip(probs, a["uniform"], strict=True)]
    return ordered(attrs, {"token": np.asarray(token, np.int64), "probs": probs})


def _infer_verify_sampled(types: Types, attrs: Attrs) -> list[TensorType]:
    VERIFY_SAMPLED.check(attrs)
    t = named(attrs, types)
    rows, probs = t["logits"], t["draft_probs"]
    _check_sampling(t, rows, t["uniform"])
    expect(same_dim(rows.shape[0], t["drafts"].numel + 1), f"{rows} for drafts {t['drafts']}")
    fits = same_shape(probs.shape, (*t["drafts"].shape, rows.shape[1]))
    expect(probs.dtype is DType.f64 and fits, f"draft_probs {probs} for {rows}")
    return ordered(attrs, _verdict(t["drafts"], t["start"]))


def _verify_sampled(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    a = named(attrs, arrays)
    drafts, uniform, start = a["drafts"], a["uniform"], int(a["start"])
    probs = _filtered(a)
    for i, guess in enumerate(drafts):
        p, q = probs[i], a["draft_probs"][i]
        if uniform[i] * q[guess] < p[guess]:
            continue
        rest = np.maximum(0, p - q)
        own = draw(rest if rest.any() else p, uniform[i + 1])
        return ordered(attrs, _finish(drafts, i, own, start))
    return ordered(attrs, _finish(drafts, len(drafts), draw(probs[-1], uniform[-1]), start))


def _sampling_cost(inputs: Types, outputs: Types, attrs: Attrs) -> Cost:
    """A few passes over the logits; sorting is not counted."""
    return Cost(dim(8 * named(attrs, inputs)["logits"].numel), activations(*inputs, *outputs))


VERDICT = ("accepted", "tokens", "length")
ARGMAX = Signature(("x", "gamma", "w"), ("token",), frozenset({"gamma"}))
VERIFY = Signature(("x", "gamma", "w", "drafts", "start"), VERDICT, frozenset({"gamma"}))
SAMPLE = Signature(("logits", "temperature", "top_k", "top_p", "uniform"), ("token", "probs"))
VERIFY_SAMPLED = Signature(
    ("logits", "draft_probs", "drafts", "uniform", "temperature", "top_k", "top_p", "start"), VERDICT
)  # fmt: skip

define(OpDef("lm_head_argmax", None, _infer_argmax, _argmax, {**NAMES, **FLOAT}, kind="fused", cost=_head_cost,
             signature=ARGMAX,
             doc="Token i64[M] of each row of x[M, H]: argmax of w[V, H] times RMSNorm(x, gamma, eps), or times x "
                 "without gamma (eps is then unused)."))  # fmt: skip
define(OpDef("mtp_verify", None, _infer_verify, _verify, {**NAMES, **FLOAT}, kind="fused", cost=_head_cost,
             signature=VERIFY,
             doc="Greedy verification: own = lm_head_argmax of the K+1 rows of [pending, drafts]; accepted = length of "
                 "the longest prefix of drafts that equals own; the token after it is own[accepted]."))  # fmt: skip
define(OpDef("sample_token", None, _infer_sample, _sample, NAMES, kind="fused", cost=_sampling_cost, signature=SAMPLE,
             doc="Filtered distribution probs f64[M, V] of logits[M, V] and one token drawn from each row with "
                 "uniform f64[M]."))  # fmt: skip
define(OpDef("mtp_verify_sampled", None, _infer_verify_sampled, _verify_sampled, NAMES, kind="fused", cost=_sampling_cost,
             signature=VERIFY_SAMPLED,
             doc="Rejection sampling: draft i stands while uniform[i] * q < p; at the first that falls, a token is drawn "
                 "from max(p - q, 0), after the last from the trunk's own distribution. uniform f64[K+1] is read in "
                 "order: one for each draft looked at, and the next one for the draw."))  # fmt: skip
