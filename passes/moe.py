"""Feed-forward layers: routing -> moe_gate, experts -> moe_ffn with the shared expert, SwiGLU -> dense_ffn."""

from __future__ import annotations

from pangu_compile.ir import Builder, Module, Value
from pangu_compile.ir.types import same_shape

from .pattern import Match, apply_rules, rule

_SCORES = """
    %logits = linear(%x, %router)
    %scores = sigmoid(%logits)
"""
_BIASED = _SCORES + """
    %biased = add(%scores, %bias)
    %top, %index = topk(%biased) {k=@k}
"""
_PLAIN = _SCORES + """
    %top, %index = topk(%scores) {k=@k}
"""
# Where every expert is chosen, the slice to k is no slice and the stable sort stays.
_ALL_BIASED = _SCORES + """
    %biased = add(%scores, %bias)
    %top, %index = sort(%biased) {descending=True}
"""
_ALL_PLAIN = _SCORES + """
    %top, %index = sort(%scores) {descending=True}
"""
_NORMALISED = """
    %picked = take_along(%scores, %index)
    %sum = reduce_sum(%picked) {axes=(1,)}
    %safe = add(%sum, #eps)
    %share = div(%picked, %safe)
    %weight = mul(%share, #scale)
    return %weight, %index"""
_SCALED = """
    %picked = take_along(%scores, %index)
    %weight = mul(%picked, #scale)
    return %weight, %index"""


@rule("moe_gate", *(choice + weights for choice in (_BIASED, _PLAIN, _ALL_BIASED, _ALL_PLAIN)
                    for weights in (_NORMALISED, _SCALED)))  # fmt: skip
def moe_gate(b: Builder, m: Match) -> list[Value] | None:
    """Biased scores choose, unbiased ones weigh: the gather must read the sigmoid itself."""
    router = m["router"]
    k = m.attrs.get("k", router.type.shape[0])
    if not isinstance(k, int) or ("bias" in m.values and not same_shape(m["bias"].type.shape, router.type.shape[:1])):
        return None
    slots = tuple(n for n in ("x", "router", "bias") if n in m.values)
    index, weight = b.multi(
        "moe_gate", *(m[n] for n in slots), slots=slots, results=("index", "weight"), k=k,
        normalise="eps" in m.numbers, scale=float(m.numbers["scale"]), eps=float(m.numbers.get("eps", 0.0)),
    )  # fmt: skip
    return [weight, index]


@rule("dense_ffn", """
    %g = linear(%x, %gate)
    %a = silu(%g)
    %u = linear(%x, %up)
    %inner = mul(%a, %u)
    %y = linear(%inner, %down)
    return %y""")  # fmt: skip
def dense_ffn(b: Builder, m: Match) -> list[Value]:
    return [b("dense_ffn", m["x"], m["gate"], m["up"], m["down"])]


_EXPERTS = """
    %g = slice(%both) {axis=2, start=0, stop=@inner}
    %u = slice(%both) {axis=2, start=@inner}
    %a = silu(%g)
    %product = mul(%a, %u)
    %each = expert_linear(%product, %down, %index)
    %column = reshape(%weight)
    %weighed = mul(%each, %column)
    %summed = reduce_sum(%weighed) {axes=(1,)}
"""
_RESHAPED = "%y = reshape(%summed)\nreturn %y"


@rule("moe_ffn", *(first + _EXPERTS + last for last in (_RESHAPED, "return %summed")
                   for first in ("%both = expert_linear(%x, %gate_up, %index)",
                                 "%row = reshape(%x)\n%both = expert_linear(%row, %gate_up, %index)")))  # fmt: skip
def moe_ffn(b: Builder, m: Match) -> list[Value] | None:
    """The sum keeps its axis of one, [T, 1, H], where what reads it is a product with streams (no norm, no shared expert)."""
    x, index = m["x"], m["index"]
    if x.type.rank != 2 or not same_shape(m["column"].type.shape, (*index.type.shape, 1)):
        return None
    if ("y" in m.values and not same_shape(m["y"].type.shape, x.type.shape)) or m.attrs["inner"] != m["down"].type.shape[2]:
        return None
    slots = ("x", "index", "weight", "gate_up", "down")
    made = b.multi("moe_ffn", *(m[n] for n in slots), slots=slots, results=("out",))
    return made if "y" in m.values else [b.reshape(made[0], m["summed"].type.shape)]


@rule("shared_expert", """
    %routed = moe_ffn(%x, %index, %weight, %gate_up, %down)
    %shared = dense_ffn(%x, %shared_gate, %shared_up, %shared_down)
    %y = add(%routed, %shared)
    return %y""")  # fmt: skip
def shared_expert(b: Builder, m: Match) -> list[Value]:
    slots = ("x", "index", "weight", "gate_up", "down", "shared_gate", "shared_up", "shared_down")
    return b.multi("moe_ffn", *(m[n] for n in slots), slots=slots, results=("out",))


def fuse_moe(module: Module) -> None:
    """moe_gate, moe_ffn with its shared expert, dense_ffn."""
    apply_rules(module, (moe_gate, moe_ffn, dense_ffn), "fuse_moe")
    apply_rules(module, (shared_expert,), "fuse_moe")
