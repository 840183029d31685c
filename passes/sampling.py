"""Sampling: a filtered distribution with a draw from it -> sample_token; the rejection rule around one -> mtp_verify_sampled.

The patterns are what models/sampling.py becomes; every number in them that depends on the vocabulary or on the count of
drafts is captured and compared by the guard.
"""

from __future__ import annotations

from collections.abc import Sequence

from pangu_compile.ir import Builder, DType, Module, Value
from pangu_compile.ir.types import same_dim, same_shape

from .pattern import Match, apply_rules, rule

DISTRIBUTION = """
    %exact = cast(%logits) {dtype='f64'}
    %greedy = le(%temperature, #0)
    %warm = cast(%temperature) {dtype='f64'}
    %divisor = where(%greedy, #1, %warm)
    %peak = reduce_max(%exact) {axes=(1,)}
    %below = sub(%exact, %peak)
    %scaled = div(%below, %divisor)
    %odds = exp(%scaled)
    %best, %order = sort(%odds) {descending=True}
    %place = iota() {size=@width}
    %some = gt(%top_k, #0)
    %limited = lt(%top_k, #width)
    %limits = logical_and(%some, %limited)
    %most = where(%limits, %top_k, #width)
    %within = lt(%place, %most)
    %counted = where(%within, %best, #0)
    %seen = cumsum(%counted)
    %share = cast(%top_p) {dtype='f64'}
    %total = slice(%seen) {axis=1, start=@last, stop=@width}
    %enough = mul(%share, %total)
    %short = lt(%seen, %enough)
    %most_but_one = sub(%most, #1)
    %early = lt(%place, %most_but_one)
    %inside = logical_and(%short, %early)
    %ones = cast(%inside) {dtype='i64'}
    %sum = reduce_sum(%ones) {axes=(1,)}
    %nucleus = add(%sum, #1)
    %partial = lt(%top_p, #1)
    %kept = where(%partial, %nucleus, %most)
    %sorted, %rank = sort(%order) {descending=False}
    %stays = lt(%rank, %kept)
    %left = where(%stays, %odds, #0)
    %norm = reduce_sum(%left) {axes=(1,)}
    %mixed = div(%left, %norm)
    %first = argmax(%exact)
    %column = reshape(%first)
    %is_first = eq(%place, %column)
    %only = cast(%is_first) {dtype='f64'}
    %probs = where(%greedy, %only, %mixed)"""

# Of weights %weights with the numbers %number[M, 1].
DRAW = """
    %running = cumsum(%weights)
    %all = slice(%running) {axis=1, start=@last, stop=@width}
    %target = mul(%number, %all)
    %passed = lt(%target, %running)
    %positive = gt(%weights, #0)
    %above = logical_and(%passed, %positive)
    %candidates = where(%above, %place, #width)
    %least = reduce_min(%candidates) {axes=(1,)}
    %lowest = reshape(%least)
    %possible = where(%positive, %place, #-1)
    %greatest = reduce_max(%possible) {axes=(1,)}
    %highest = reshape(%greatest)
    %found = lt(%lowest, #width)
    %drawn = where(%found, %lowest, %highest)"""

VERIFY = """
    %rows = iota() {size=@rows}
    %tested = slice(%probs) {axis=0, start=0, stop=@count}
    %guess = reshape(%drafts)
    %own = take_along(%tested, %guess)
    %mine = reshape(%own)
    %theirs_2d = take_along(%draft_probs, %guess)
    %theirs = reshape(%theirs_2d)
    %chances = slice(%uniform) {axis=0, start=0, stop=@count}
    %product = mul(%chances, %theirs)
    %stands = lt(%product, %mine)
    %tries = slice(%rows) {axis=0, start=0, stop=@count}
    %fallen = where(%stands, #count, %tries)
    %foremost = reduce_min(%fallen) {axes=(0,)}
    %accepted = reshape(%foremost) {shape=()}
    %difference = sub(%tested, %draft_probs)
    %rest = relu(%difference)
    %most_left = reduce_max(%rest) {axes=(1,)}
    %something = gt(%most_left, #0)
    %instead = where(%something, %rest, %tested)
    %beyond = slice(%probs) {axis=0, start=@count, stop=@rows}
    %weights = concat(%instead, %beyond) {axis=0}
    %later = slice(%uniform) {axis=0, start=1, stop=@rows}
    %final = slice(%uniform) {axis=0, start=@count, stop=@rows}
    %numbers = concat(%later, %final) {axis=0}
    %number = reshape(%numbers)"""

FINISH = """
    %padded = concat(%drafts, %foremost) {axis=0}
    %before = lt(%rows, %accepted)
    %here = eq(%rows, %accepted)
    %fresh = where(%here, %drawn, #-1)
    %tokens = where(%before, %padded, %fresh)
    %advanced = add(%start, %accepted)
    %length = add(%advanced, #1)
    return %accepted, %tokens, %length"""

SETTINGS = ("temperature", "top_k", "top_p")


def _whole_vocabulary(m: Match) -> bool:
    """The numbers of a distribution and a draw are those of its logits[M, V]."""
    logits, width = m["logits"].type, m.attrs["width"]
    if logits.rank != 2 or logits.dtype is not DType.f32 or any(m[name].type.rank for name in SETTINGS):
        return False
    return same_dim(logits.shape[1], width) and m.numbers["width"] == width and m.attrs["last"] == width - 1


@rule("sample_token", f"""{DISTRIBUTION}
    %number = reshape(%uniform)
    {DRAW.replace("%weights", "%probs").strip().replace("%drawn", "%token")}
    return %token, %probs""")  # fmt: skip
def sample_token(b: Builder, m: Match) -> Sequence[Value] | None:
    if not _whole_vocabulary(m) or m["uniform"].type.rank != 1:
        return None
    slots = ("logits", *SETTINGS, "uniform")
    return b.multi("sample_token", *(m[name] for name in slots), slots=slots, results=("token", "probs"))


@rule("mtp_verify_sampled", DISTRIBUTION + VERIFY + DRAW + FINISH)
def mtp_verify_sampled(b: Builder, m: Match) -> Sequence[Value] | None:
    count, rows, start = m.attrs["count"], m.attrs["rows"], m["start"]
    if not _whole_vocabulary(m) or m.numbers["count"] != count or not same_dim(rows, count + 1):
        return None
    if not same_shape(m["logits"].type.shape[:1], (rows,)) or not same_shape(m["drafts"].type.shape, (count,)):
        return None
    if not same_shape(m["uniform"].type.shape, (rows,)) or start.type.dtype is not DType.i64 or start.type.rank != 0:
        return None
    slots = ("logits", "draft_probs", "drafts", "uniform", *SETTINGS, "start")
    results = ("accepted", "tokens", "length")
    return b.multi("mtp_verify_sampled", *(m[name] for name in slots), slots=slots, results=results)


def fuse_sampling(module: Module) -> None:
    """Fuse in every graph."""
    apply_rules(module, [sample_token, mtp_verify_sampled], "fuse_mtp")
