"""Decompositions of draft verification and sampling (see ops/mtp.py)."""

from __future__ import annotations

from collections.abc import Mapping

from ..graph import Value
from ..opdef import Attrs
from ..types import DType, dim
from .emit import Emit
from .table import slotted

Named = Mapping[str, Value]


def _own_tokens(e: Emit, attrs: Attrs, t: Named) -> Value:
    x = e.rms(t["x"], t["gamma"], attrs["eps"]) if "gamma" in t else t["x"]
    return e.build("argmax", e.project(x, t["w"]))


def _finish(e: Emit, t: Named, stands: Value, own: Value) -> dict[str, Value]:
    """Results for stands[K] (draft i is right if all before it are) and own[K + 1], the trunk's token after i drafts."""
    drafts, (count,) = t["drafts"], t["drafts"].type.shape
    everything = e.build("size", value=count)
    first_wrong = e.build("reduce_min", e.build("where", stands, everything, e.iota(count)), axes=(0,))
    accepted = e.build.reshape(first_wrong, ())
    place, nothing = e.iota(dim(count + 1)), e.build.constant(-1, DType.i64)
    padded = e.build("concat", drafts, e.build.reshape(nothing, (1,)), axis=0)
    after = e.build("where", e.build("eq", place, accepted), e.build("take", own, accepted), nothing)
    tokens = e.build("where", e.build("lt", place, accepted), padded, after)
    return {"accepted": accepted, "tokens": tokens, "length": e.add(e.add(t["start"], accepted), 1)}


@slotted("lm_head_argmax")
def _lm_head_argmax(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    return {"token": _own_tokens(e, attrs, t)}


@slotted("mtp_verify")
def _mtp_verify(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    own = _own_tokens(e, attrs, t)
    return _finish(e, t, e.build("eq", e.part(own, 0, 0, t["drafts"].type.shape[0]), t["drafts"]), own)


def _filtered(e: Emit, t: Named) -> Value:
    """Probabilities f64[M, V]: temperature, then top-k, then top-p; what is filtered out gets exactly 0."""
    logits = e.build.cast(t["logits"], DType.f64)
    rows, width = logits.type.shape
    temperature, top_p = (e.build.cast(t[name], DType.f64) for name in ("temperature", "top_p"))
    greedy = e.binary("le", temperature, 0.0)
    divisor = e.build("where", greedy, e.build.constant(1.0, DType.f64), temperature)
    p = e.build("exp", e.div(e.sub(logits, e.build("reduce_max", logits, axes=(1,))), divisor))
    values, order = e.build.multi("sort", p, descending=True)
    rank = e.iota(width)
    limits = e.build("logical_and", e.binary("gt", t["top_k"], 0), e.binary("lt", t["top_k"], int(width)))
    kept = e.build("where", limits, t["top_k"], e.build.constant(int(width), DType.i64))
    zero = e.build.constant(0.0, DType.f64)
    seen = e.build("cumsum", e.build("where", e.build("lt", rank, kept), values, zero))
    short = e.build("lt", seen, e.mul(top_p, e.part(seen, 1, width - 1, width)))
    short = e.build("logical_and", short, e.build("lt", rank, e.sub(kept, 1)))
    nucleus = e.add(e.build("reduce_sum", e.build.cast(short, DType.i64), axes=(1,)), 1)
    kept = e.build("where", e.binary("lt", top_p, 1.0), nucleus, kept)
    _, place = e.build.multi("sort", order, descending=False)
    p = e.build("where", e.build("lt", place, kept), p, zero)
    p = e.div(p, e.build("reduce_sum", p, axes=(1,)))
    best = e.build.reshape(e.build("argmax", logits), (rows, 1))
    only = e.build.cast(e.build("eq", rank, best), DType.f64)
    return e.build("where", greedy, only, p)


def _draw(e: Emit, weights: Value, uniform: Value) -> Value:
    """Token i64[M] of weights[M, V]: the first whose running sum passes uniform * total, else the last positive one."""
    rows, width = weights.type.shape
    seen, place = e.build("cumsum", weights), e.iota(width)
    limit = e.mul(e.build.reshape(uniform, (rows, 1)), e.part(seen, 1, width - 1, width))
    positive = e.binary("gt", weights, 0.0)
    above = e.build("logical_and", e.build("lt", limit, seen), positive)
    none, beyond = (e.build.constant(v, DType.i64) for v in (-1, int(width)))
    first = e.build("reduce_min", e.build("where", above, place, beyond), axes=(1,))
    last = e.build("reduce_max", e.build("where", positive, place, none), axes=(1,))
    return e.build.reshape(e.build("where", e.build("lt", first, beyond), first, last), (rows,))


@slotted("sample_token")
def _sample_token(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    probs = _filtered(e, t)
    return {"token": _draw(e, probs, t["uniform"]), "probs": probs}


@slotted("mtp_verify_sampled")
def _mtp_verify_sampled(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    probs, q, uniform = _filtered(e, t), t["draft_probs"], t["uniform"]
    (count,) = t["drafts"].type.shape
    rows = dim(count + 1)
    p = e.part(probs, 0, 0, count)
    guess = e.build.reshape(t["drafts"], (count, 1))
    mine, theirs = (e.build.reshape(e.build("take_along", v, guess), (count,)) for v in (p, q))
    stands = e.build("lt", e.mul(e.part(uniform, 0, 0, count), theirs), mine)
    rest = e.binary("maximum", e.sub(p, q), 0.0)
    left = e.binary("gt", e.build("reduce_max", rest, axes=(1,)), 0.0)
    weights = e.build("concat", e.build("where", left, rest, p), e.part(probs, 0, count, rows), axis=0)
    # A draft that falls uses up its own number; the draw takes the next.
    numbers = e.build("concat", e.part(uniform, 0, 1, rows), e.part(uniform, 0, count, rows), axis=0)
    return _finish(e, t, stands, _draw(e, weights, numbers))
