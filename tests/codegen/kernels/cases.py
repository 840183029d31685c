"""Random applications of every fused operator that has a CPU kernel, at sizes that no vector width divides."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pangu_compile.ir import DType, tensor
from pangu_compile.ir.ops.mtp import VERDICT
from tests.ir.fused_cases import Case, S, T, Types, f32, slotted, switches

I64 = DType.i64


class Sizes:
    """Draws sizes; every family of cases takes one."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)

    def __call__(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))


def norm_cases(r: Sizes) -> Iterator[Case]:
    for _ in range(2):
        c = r(9, 40)
        yield Case("rms_norm", {"x": f32(T, c), "gamma": f32(c)}, {"eps": 1e-5})
        yield Case("rms_norm", {"x": f32(T, 3, c), "gamma": f32(c)}, {"eps": 1e-6})
        yield Case("layer_norm", {"x": f32(T, c), "gamma": f32(c), "beta": f32(c)}, {"eps": 1e-6})
        yield Case("linear", {"x": f32(T, c), "w": f32(r(1, 40), c)}, {})
        d = 2 * r(1, 9)
        yield Case("rotary_table", {"positions": tensor(I64, T)}, {"dim": d, "theta": 6.4e6}, 500_000)
        offset, after = r(0, 9), r(0, 9)
        yield Case("rotary", {"x": f32(T, offset + d + after), "table": f32(T, d)}, {"offset": offset})
        yield Case("rotary", {"x": f32(T, r(1, 5), offset + d + after), "table": f32(T, d)}, {"offset": offset})
    for taps in (2, 3, 4):
        c, ring = r(9, 40), taps - 1 + r(0, 4)
        operands = {"x": f32(T, c), "weight": f32(c, 1, taps), "start": tensor(I64), "ring": f32(ring, c)}
        yield slotted("mome_conv", operands, ("y", "new_ring"))


def stream_cases(r: Sizes) -> Iterator[Case]:
    post = {"out_eps": 1e-5, "block_eps": 1e-5}
    for number, s in enumerate(switches("gamma", "norm", "out_norm", "block_norm")):
        n, h = number % 4 + 1, r(9, 40) if number else 531
        pre = {"pre_eps": 1e-5, "norm_eps": 1e-6, "mhc_eps": 1e-6, "iterations": r(1, 20)}
        read = {"phi": f32(n * (n + 2), n * h), "alpha": f32(3), "beta": f32(n * (n + 2))}
        read |= ({"gamma": f32(n * h)} if s["gamma"] else {}) | ({"norm": f32(h)} if s["norm"] else {})
        write = {"x": f32(T, n, h), "out": f32(T, h), "post": f32(T, n), "res": f32(T, n, n)}
        write |= {"out_norm": f32(h)} if s["out_norm"] else {}
        write |= {"block_norm": f32(n * h)} if s["block_norm"] else {}
        results = ("y", "new_post", "new_res")
        yield slotted("mhc_post_pre", {**write, **read}, ("new_x", *results), **pre, **post)
        if s["out_norm"] == s["block_norm"]:
            yield slotted("mhc_pre", {"x": f32(T, n, h), **read}, results, **pre)
        if s["gamma"] == s["norm"]:
            yield slotted("mhc_post", write, ("new_x",), **post)
        if not any(s[k] for k in ("norm", "out_norm", "block_norm")):
            merge = {"x": f32(T, n, h), "phi": f32(n, n * h), "alpha": f32(1), "beta": f32(n)}
            merge |= {"gamma": f32(n * h)} if s["gamma"] else {}
            yield slotted("mhc_merge", merge, ("h",), pre_eps=1e-5, mhc_eps=1e-6)
    for n in (1, 3, 4):
        yield Case("sinkhorn", {"raw": f32(T, n, n)}, {"iterations": 20, "eps": 1e-6})
    for s in switches("out_norm", "block_norm", "norm"):
        h = r(9, 40)
        operands = {"x": f32(T, h), "out": f32(T, h), **{k: f32(h) for k, on in s.items() if on}}
        yield slotted("residual", operands, ("new_x", "y") if s["norm"] else ("new_x",), **post, norm_eps=1e-6)


def prologue_cases(r: Sizes) -> Iterator[Case]:
    for s in switches("low", "conv", "cache", "more"):
        hidden, latent, rope, heads = r(9, 40), r(9, 40), 2 * r(1, 5), r(1, 5)
        d = rope + r(1, 19)
        low = r(9, 40) if s["low"] else hidden
        taps_q, taps_kv = r(2, 4), r(2, 4)
        t: Types = {"u": f32(T, hidden)}
        if s["low"]:
            t["q_a"] = f32(low, hidden)
            t |= {"q_conv": f32(low, 1, taps_q), "q_ring": f32(taps_q - 1 + r(0, 3), low)} if s["conv"] else {}
            t["q_norm"] = f32(low)
        t |= {"q_b": f32(heads * d, low), "kv_a": f32(latent + rope, hidden)}
        t |= {"kv_conv": f32(latent, 1, taps_kv), "kv_ring": f32(taps_kv - 1 + r(0, 3), latent)} if s["conv"] else {}
        t |= {"kv_norm": f32(latent), "table": f32(T, rope)}
        t |= {"start": tensor(I64)} if s["conv"] else {}
        t |= {"cache": f32(S, latent + rope)} if s["cache"] else {}
        results = ["q", *(["qr"] if s["more"] else []), *(["latent"] if s["more"] or not s["cache"] else [])]
        results += [f"new_{n}" for n in ("cache", "q_ring", "kv_ring") if n in t]
        yield slotted("mla_prologue", t, tuple(results), heads=heads, head_dim=d, q_eps=1e-5, kv_eps=1e-6)
    for s in switches("k_beta", "wide"):
        hidden, low, rope, heads = r(9, 40), r(9, 40), 2 * r(1, 5), r(1, 5)
        width = rope + r(0, 19)
        t = {"u": f32(T, hidden), "qr": f32(T, low), "wq_b": f32(heads * width, low), "wk": f32(width, hidden),
             "k_gamma": f32(width)}  # fmt: skip
        t |= {"k_beta": f32(width)} if s["k_beta"] else {}
        t |= {"weights_proj": f32(heads, hidden), "table": f32(T, rope), "cache": f32(S, width)}
        yield slotted("index_prologue", t, ("iq", "iw", "new_cache"), heads=heads, k_eps=1e-6, scale=heads**-0.5)
    for conv in (0, 2, 3):
        a, h = r(9, 40), r(9, 40)
        t = {"a": f32(T, a)}
        t |= {"o_conv": f32(a, 1, conv), "o_ring": f32(conv - 1 + r(0, 4), a), "start": tensor(I64)} if conv else {}
        results = ["out", "new_o_ring"] if conv else ["out"]
        yield slotted("attention_output", t | {"o_proj": f32(h, a)}, tuple(results))


def attention_cases(r: Sizes) -> Iterator[Case]:
    for number, s in enumerate(switches("sinks", "expand", "wide")):
        heads, nope, rope, v, latent = r(1, 5), r(1, 19), 2 * r(1, 5), r(1, 19), r(9, 40)
        heads = {6: 19, 7: 85}.get(number, heads)  # more than one block of heads, the last one in part
        width, rows = latent + rope, S + T
        shared = {"nope": nope, "v": v, "scale": (nope + rope) ** -0.5, "expand_from": 5 if s["expand"] else 0}
        q, kv_b = {"q": f32(T, heads, nope + rope)}, {"kv_b": f32(heads * (nope + v), latent)}
        tail = kv_b | ({"sinks": f32(r(1, 70), width)} if s["sinks"] else {})
        window = (1, 2, 7, 70)[number % 4]
        ring = {"latent": f32(T, width), "ring": f32(max(1, window - 1 + r(0, 3)), width), "start": tensor(I64)}
        yield slotted("swa_attention", q | ring | tail, ("out", "new_ring"), window=window, **shared)
        cache = {"cache": f32(rows, width)}
        yield slotted("dense_attention", q | cache | tail, ("out",), **shared)
        hi, di = r(1, 5), r(9, 40)
        hi = {3: 21, 5: 53}.get(number, hi)
        index = {"iq": f32(T, hi, di), "iw": f32(T, hi), "index_cache": f32(rows, di)}
        topk = (1, 5, 16, 100)[number % 4]
        yield slotted("dsa_attention", q | cache | index | tail, ("out",), topk=topk, index_scale=0.25, **shared)


def ffn_cases(r: Sizes) -> Iterator[Case]:
    for wide in (False, True):
        h, inner = r(65, 90) if wide else r(9, 40), r(65, 90) if wide else r(9, 40)
        yield Case("dense_ffn", {"x": f32(T, h), "gate": f32(inner, h), "up": f32(inner, h), "down": f32(h, inner)}, {})
        for s in switches("bias", "normalise", "shared"):
            experts = r(3, 19)
            k = r(1, experts)
            t = {"x": f32(T, h), "router": f32(experts, h), **({"bias": f32(experts)} if s["bias"] else {})}
            if not wide:
                yield slotted("moe_gate", t, ("index", "weight"), k=k, normalise=s["normalise"], scale=2.5, eps=1e-20)
            if s["bias"] != s["normalise"]:
                continue
            t = {"x": f32(T, h), "index": tensor(I64, T, k), "weight": f32(T, k), "gate_up": f32(experts, 2 * inner, h),
                 "down": f32(experts, h, inner)}  # fmt: skip
            if s["shared"]:
                width = inner + 1
                t |= {"shared_gate": f32(width, h), "shared_up": f32(width, h), "shared_down": f32(h, width)}
            yield slotted("moe_ffn", t, ("out",), index_limit=experts)


def mtp_cases(r: Sizes) -> Iterator[Case]:
    for vocabulary in (2, r(65, 90), r(600, 700)):
        for gamma in (False, True):
            h = r(9, 90)
            tail = {"gamma": f32(h)} if gamma else {}
            tail |= {"w": f32(vocabulary, h)}
            yield slotted("lm_head_argmax", {"x": f32(T, h)} | tail, ("token",), eps=1e-5)
            drafts = {"drafts": tensor(I64, T), "start": tensor(I64)}
            yield slotted("mtp_verify", {"x": f32(T + 1, h)} | tail | drafts, VERDICT, eps=1e-5, index_limit=vocabulary)


FAMILIES = {
    "norm": norm_cases, "streams": stream_cases, "prologue": prologue_cases, "attention": attention_cases, "ffn": ffn_cases,
    "mtp": mtp_cases,
}  # fmt: skip


def cases(family: str) -> list[Case]:
    return list(FAMILIES[family](Sizes(7)))
