"""Multi-token prediction: tokens without their logits, and the verification of drafts as one operator.

linear + argmax -> lm_head_argmax, with the norm before it; what models/speculate.py's `accept` writes around the trunk's
tokens -> mtp_verify. Logits that somebody else reads are left as they are, since they have to be computed anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

from pangu_compile.ir import Builder, DType, Module, Value
from pangu_compile.ir.types import same_dim, same_shape

from .layers import is_parameter
from .pattern import Match, apply_rules, rule
from .sampling import fuse_sampling


@rule("lm_head_argmax", """
    %normed = rms_norm(%x, %gamma) {eps=@eps}
    %logits = linear(%normed, %w)
    %token = argmax(%logits)
    return %token""", """
    %logits = linear(%x, %w)
    %token = argmax(%logits)
    return %token""")  # fmt: skip
def lm_head_argmax(b: Builder, m: Match) -> Sequence[Value] | None:
    operands = {name: m[name] for name in ("x", "gamma", "w") if name in m.values}
    if not is_parameter(m["w"]) or not all(is_parameter(v) for n, v in operands.items() if n == "gamma"):
        return None
    eps = float(m.attrs.get("eps", 0.0))
    return b.multi("lm_head_argmax", *operands.values(), slots=tuple(operands), results=("token",), eps=eps)


ACCEPT = """
    %own = lm_head_argmax({operands}) {{slots={slots}, eps=@eps}}
    %guessed = slice(%own) {{axis=0, start=0, stop=@count}}
    %same = eq(%guessed, %drafts)
    %order = iota() {{size=@count}}
    %place = where(%same, #count, %order)
    %least = reduce_min(%place) {{axes=(0,)}}
    %accepted = reshape(%least) {{shape=()}}
    %index = iota() {{size=@rows}}
    %kept = le(%index, %accepted)
    %tokens = where(%kept, %own, #-1)
    %passed = add(%start, %accepted)
    %length = add(%passed, #1)
    return %accepted, %tokens, %length"""


@rule("mtp_verify", ACCEPT.format(operands="%x, %gamma, %w", slots="('x', 'gamma', 'w')"),
      ACCEPT.format(operands="%x, %w", slots="('x', 'w')"))  # fmt: skip
def mtp_verify(b: Builder, m: Match) -> Sequence[Value] | None:
    count, start, drafts = m.attrs["count"], m["start"], m["drafts"]
    if m.numbers["count"] != count or not same_dim(m.attrs["rows"], count + 1):
        return None
    if not same_shape(m["own"].type.shape, (count + 1,)) or not same_shape(drafts.type.shape, (count,)):
        return None
    if start.type.dtype is not DType.i64 or start.type.rank != 0:
        return None
    operands = {name: m[name] for name in ("x", "gamma", "w", "drafts", "start") if name in m.values}
    results = ("accepted", "tokens", "length")
    return b.multi("mtp_verify", *operands.values(), slots=tuple(operands), results=results, eps=m.attrs["eps"])


def fuse_mtp(module: Module) -> None:
    """Fuse in every graph: the heads' and the trunk's tokens first, then what verifies them."""
    apply_rules(module, [lm_head_argmax], "fuse_mtp")
    apply_rules(module, [mtp_verify], "fuse_mtp")
    fuse_sampling(module)
