"""Random applications of every fused operator: all optional operands on and off, random sizes and attributes.

Sizes T (tokens) and S (rows cached before the call) stay symbols in the types; `arrays` draws values for given numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pangu_compile.ir import DType, Graph, Node, TensorType, Value, evaluate_dim, make_node, symbol, tensor
from pangu_compile.ir.ops.mtp import VERDICT

T, S = symbol("T"), symbol("S")
F32, I64 = DType.f32, DType.i64
Types = dict[str, TensorType]
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _probabilities(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Rows that sum to 1; about half of the entries are 0."""
    p = rng.random(shape) * (rng.random(shape) < 0.5)
    p[..., 0] += 0.1
    return p / p.sum(-1, keepdims=True)


# Operands of sampling that are not just any numbers.
CHANCES: dict[str, Draw] = {
    "uniform": lambda rng, shape: rng.random(shape),
    "temperature": lambda rng, shape: np.asarray(rng.choice([0.0, 0.7, 1.0, 2.0])),
    "top_p": lambda rng, shape: np.asarray(rng.choice([0.3, 0.9, 1.0])),
    "draft_probs": _probabilities,
}


@dataclasses.dataclass
class Case:
    """One application: operands by name, attributes, and how large indices may get."""

    op: str
    operands: Types
    attrs: dict[str, Any]
    index_limit: int = 3

    def node(self) -> tuple[Graph, Node]:
        """A graph of this one node."""
        graph = Graph(self.op)
        graph.params = [Value(n, t) for n, t in self.operands.items()]
        node = make_node(self.op, graph.params, self.attrs)
        graph.nodes.append(node)
        graph.outputs = list(node.outputs)
        graph.rename()
        return graph, node

    def arrays(self, env: dict[str, int], rng: np.random.Generator, start: int, ties: bool = False) -> list[np.ndarray]:
        """float64 operands. ties: floats are small integers, so that many products and scores are equal."""
        out = []
        for name, t in self.operands.items():
            shape = tuple(evaluate_dim(d, env) for d in t.shape)
            if t.dtype is I64:
                out.append(np.asarray(start if name == "start" else rng.integers(0, self.index_limit, shape), np.int64))
            elif name in CHANCES:
                out.append(CHANCES[name](rng, shape))
            else:
                values = rng.integers(-1, 2, shape).astype(np.float64) if ties else rng.standard_normal(shape)
                out.append(values + (1.0 if "norm" in name or "gamma" in name else 0.0))
        return out

    def __str__(self) -> str:
        return f"{self.op}{self.attrs.get('slots', '')}"


def f32(*shape: Any) -> TensorType:
    return tensor(F32, *shape)


def switches(*names: str) -> Iterator[dict[str, bool]]:
    for values in itertools.product((False, True), repeat=len(names)):
        yield dict(zip(names, values, strict=True))


def slotted(op: str, operands: Types, results: tuple[str, ...], **rest: Any) -> Case:
    limit = rest.pop("index_limit", 3)
    return Case(op, operands, {"slots": tuple(operands), "results": results, **rest}, limit)


def norm_cases(r: Callable[[int, int], int]) -> Iterator[Case]:
    c = r(2, 9)
    yield Case("rms_norm", {"x": f32(T, c), "gamma": f32(c)}, {"eps": 1e-5})
    yield Case("rms_norm", {"x": f32(T, 3, c), "gamma": f32(c)}, {"eps": 1e-6})
    yield Case("layer_norm", {"x": f32(T, c), "gamma": f32(c), "beta": f32(c)}, {"eps": 1e-6})
    yield Case("linear", {"x": f32(T, c), "w": f32(r(1, 9), c)}, {})
    d = 2 * r(1, 4)
    yield Case("rotary_table", {"positions": tensor(I64, T)}, {"dim": d, "theta": 1e4}, 100_000)
    for offset, after in ((0, 0), (3, 0), (0, 2), (1, 4)):
        yield Case("rotary", {"x": f32(T, offset + d + after), "table": f32(T, d)}, {"offset": offset})
        yield Case("rotary", {"x": f32(T, 3, offset + d + after), "table": f32(T, d)}, {"offset": offset})
    for taps in (2, 3, 4):
        ring = taps - 1 + r(0, 3)
        operands = {"x": f32(T, c), "weight": f32(c, 1, taps), "start": tensor(I64), "ring": f32(ring, c)}
        yield slotted("mome_conv", operands, ("y", "new_ring"))


def _pre_operands(n: int, h: int, gamma: bool, norm: bool) -> Types:
    operands = {"phi": f32(n * (n + 2), n * h), "alpha": f32(3), "beta": f32(n * (n + 2))}
    operands |= {"gamma": f32(n * h)} if gamma else {}
    return operands | ({"norm": f32(h)} if norm else {})


def stream_cases(r: Callable[[int, int], int]) -> Iterator[Case]:
    pre = {"pre_eps": 1e-5, "norm_eps": 1e-6, "mhc_eps": 1e-6, "iterations": r(1, 5)}
    post = {"out_eps": 1e-5, "block_eps": 1e-5}
    results = ("y", "new_post", "new_res")
    for s in switches("gamma", "norm", "out_norm", "block_norm"):
        n, h = r(1, 4), r(2, 7)
        read = _pre_operands(n, h, s["gamma"], s["norm"])
        write = {"x": f32(T, n, h), "out": f32(T, h), "post": f32(T, n), "res": f32(T, n, n)}
        write |= {"out_norm": f32(h)} if s["out_norm"] else {}
        write |= {"block_norm": f32(n * h)} if s["block_norm"] else {}
        yield slotted("mhc_post_pre", {**write, **read}, ("new_x", *results), **pre, **post)
        if not s["out_norm"] and not s["block_norm"]:
            yield slotted("mhc_pre", {"x": f32(T, n, h), **read}, results, **pre)
        if not s["gamma"] and not s["norm"]:
            yield slotted("mhc_post", write, ("new_x",), **post)
        if not any(s[k] for k in ("norm", "out_norm", "block_norm")):
            merge = {"x": f32(T, n, h), "phi": f32(n, n * h), "alpha": f32(1), "beta": f32(n)}
            merge |= {"gamma": f32(n * h)} if s["gamma"] else {}
            yield slotted("mhc_merge", merge, ("h",), pre_eps=1e-5, mhc_eps=1e-6)
    yield Case("sinkhorn", {"raw": f32(T, pre["iterations"], pre["iterations"])}, {"iterations": r(1, 6), "eps": 1e-6})
    for s in switches("out_norm", "block_norm", "norm"):
        h = r(2, 7)
        operands = {"x": f32(T, h), "out": f32(T, h), **{k: f32(h) for k, on in s.items() if on}}
        yield slotted("residual", operands, ("new_x", "y") if s["norm"] else ("new_x",), **post, norm_eps=1e-6)


def prologue_cases(r: Callable[[int, int], int]) -> Iterator[Case]:
    for s in switches("low", "conv", "cache", "more"):
        hidden, latent, rope, heads, d = r(3, 8), r(2, 6), 2 * r(1, 3), r(1, 3), 0
        d = rope + r(1, 4)
        low = r(3, 7) if s["low"] else hidden
        t: Types = {"u": f32(T, hidden)}
        if s["low"]:
            t["q_a"] = f32(low, hidden)
            t |= {"q_conv": f32(low, 1, 3), "q_ring": f32(r(2, 5), low)} if s["conv"] else {}
            t["q_norm"] = f32(low)
        t |= {"q_b": f32(heads * d, low), "kv_a": f32(latent + rope, hidden)}
        t |= {"kv_conv": f32(latent, 1, 3), "kv_ring": f32(r(2, 5), latent)} if s["conv"] else {}
        t |= {"kv_norm": f32(latent), "table": f32(T, rope)}
        t |= {"start": tensor(I64)} if s["conv"] else {}
        t |= {"cache": f32(S, latent + rope)} if s["cache"] else {}
        results = ["q", *(["qr"] if s["more"] else []), *(["latent"] if s["more"] or not s["cache"] else [])]
        results += [f"new_{n}" for n in ("cache", "q_ring", "kv_ring") if n in t]
        yield slotted("mla_prologue", t, tuple(results), heads=heads, head_dim=d, q_eps=1e-5, kv_eps=1e-6)
    for s in switches("k_beta"):
        hidden, low, rope, heads = r(3, 8), r(3, 7), 2 * r(1, 3), r(1, 3)
        width = rope + r(0, 3)
        t = {"u": f32(T, hidden), "qr": f32(T, low), "wq_b": f32(heads * width, low), "wk": f32(width, hidden),
             "k_gamma": f32(width)}  # fmt: skip
        t |= {"k_beta": f32(width)} if s["k_beta"] else {}
        t |= {"weights_proj": f32(heads, hidden), "table": f32(T, rope), "cache": f32(S, width)}
        yield slotted("index_prologue", t, ("iq", "iw", "new_cache"), heads=heads, k_eps=1e-6, scale=heads**-0.5)


def attention_cases(r: Callable[[int, int], int]) -> Iterator[Case]:
    for s in switches("sinks", "more"):
        heads, nope, rope, v, latent, window = r(1, 3), r(1, 5), 2 * r(1, 2), r(1, 5), r(2, 6), r(1, 7)
        width, rows = latent + rope, S + T
        shared = {"nope": nope, "v": v, "scale": (nope + rope) ** -0.5, "expand_from": 0}
        q, kv_b = {"q": f32(T, heads, nope + rope)}, {"kv_b": f32(heads * (nope + v), latent)}
        tail = kv_b | ({"sinks": f32(r(1, 4), width)} if s["sinks"] else {})
        ring = {"latent": f32(T, width), "ring": f32(window - 1 + r(1, 3), width), "start": tensor(I64)}
        yield slotted("swa_attention", q | ring | tail, ("out", "new_ring"), window=window, **shared)
        cache = {"cache": f32(rows, width)}
        yield slotted("dense_attention", q | cache | tail, ("out",), **shared)
        hi, di = r(1, 3), r(2, 5)
        index = {"iq": f32(T, hi, di), "iw": f32(T, hi), "index_cache": f32(rows, di)}
        yield slotted("dsa_attention", q | cache | index | tail, ("out",), topk=r(1, 9), index_scale=di**-0.5, **shared)
    for s in switches("conv"):
        a, h = r(2, 6), r(2, 6)
        t = {"a": f32(T, a)}
        t |= {"o_conv": f32(a, 1, 3), "o_ring": f32(r(2, 5), a), "start": tensor(I64)} if s["conv"] else {}
        results = ("out", "new_o_ring") if s["conv"] else ("out",)
        yield slotted("attention_output", t | {"o_proj": f32(h, a)}, results)


def ffn_cases(r: Callable[[int, int], int]) -> Iterator[Case]:
    h, inner, experts = r(2, 6), r(2, 6), r(3, 6)
    k = r(1, experts)
    yield Case("dense_ffn", {"x": f32(T, h), "gate": f32(inner, h), "up": f32(inner, h), "down": f32(h, inner)}, {})
    for s in switches("bias", "normalise", "shared"):
        t = {"x": f32(T, h), "router": f32(experts, h), **({"bias": f32(experts)} if s["bias"] else {})}
        yield slotted("moe_gate", t, ("index", "weight"), k=k, normalise=s["normalise"], scale=2.5, eps=1e-20)
        t = {"x": f32(T, h), "index": tensor(I64, T, k), "weight": f32(T, k), "gate_up": f32(experts, 2 * inner, h),
             "down": f32(experts, h, inner)}  # fmt: skip
        if s["shared"]:
            wide = inner + 1
            t |= {"shared_gate": f32(wide, h), "shared_up": f32(wide, h), "shared_down": f32(h, wide)}
        yield slotted("moe_ffn", t, ("out",), index_limit=experts)
    for x in (f32(T, h), f32(T, k, h)):
        yield Case("expert_linear", {"x": x, "weight": f32(experts, inner, h), "index": tensor(I64, T, k)}, {}, experts)


def mtp_cases(r: Callable[[int, int], int]) -> Iterator[Case]:
    """K drafts stand for T here: verification takes T + 1 rows."""
    for s in switches("gamma"):
        h, vocabulary = r(2, 6), r(2, 9)
        tail = ({"gamma": f32(h)} if s["gamma"] else {}) | {"w": f32(vocabulary, h)}
        yield slotted("lm_head_argmax", {"x": f32(T, h)} | tail, ("token",), eps=1e-5)
        drafts = {"drafts": tensor(I64, T), "start": tensor(I64)}
        yield slotted("mtp_verify", {"x": f32(T + 1, h)} | tail | drafts, VERDICT, eps=1e-5, index_limit=vocabulary)
    f64 = DType.f64
    for vocabulary in (3, r(4, 9), 40):
        settings = {"temperature": tensor(f64), "top_k": tensor(I64), "top_p": tensor(f64)}
        logits = {"logits": f32(T, vocabulary)}
        yield slotted("sample_token", logits | settings | {"uniform": tensor(f64, T)}, ("token", "probs"),
                      index_limit=vocabulary)  # fmt: skip
        operands = {"logits": f32(T + 1, vocabulary), "draft_probs": tensor(f64, T, vocabulary), "drafts": tensor(I64, T),
                    "uniform": tensor(f64, T + 1), **settings, "start": tensor(I64)}  # fmt: skip
        yield slotted("mtp_verify_sampled", operands, VERDICT, index_limit=vocabulary)


FAMILIES = (mtp_cases, norm_cases, stream_cases, prologue_cases, attention_cases, ffn_cases)


def all_cases(seed: int) -> list[Case]:
    rng = np.random.default_rng(seed)

    def draw(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    return [case for family in FAMILIES for case in family(draw)]
