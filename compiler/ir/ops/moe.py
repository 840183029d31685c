"""Feed-forward layers: SwiGLU, biased sigmoid routing, and the grouped experts with their shared expert.

T tokens, H hidden, F inner width, E experts, k chosen. Formulas: shared specification, "FFN".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..opdef import Attrs, Cost, Env, OpDef, define
from ..slots import Signature, named, ordered
from ..types import DType, TensorType, dim, same_shape
from .attention import NAMES, smaller
from .norm import activations, expect, linear_cost, silu, weight_type
from .pointwise import sigmoid

Arrays = Sequence[np.ndarray]
Types = Sequence[TensorType]
ROUTER_EPS = 1e-20


def _infer_gate(types: Types, attrs: Attrs) -> list[TensorType]:
    GATE.check(attrs)
    t = named(attrs, types)
    x, router = t["x"], t["router"]
    weight_type(router, router.shape[0], x.shape[1])
    expect("bias" not in t or same_shape(t["bias"].shape, router.shape[:1]), f"bias {t.get('bias')}")
    expect(0 < attrs["k"] <= int(router.shape[0]), f"{attrs['k']} of {router.shape[0]} experts")
    shape = (x.shape[0], attrs["k"])
    return ordered(attrs, {"index": TensorType(DType.i64, shape), "weight": TensorType(x.dtype, shape)})


def _gate(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    a = named(attrs, arrays)
    scores = sigmoid(a["x"] @ a["router"].T)
    index = np.argsort(-(scores + a.get("bias", 0.0)), -1, kind="stable")[:, : attrs["k"]]
    weight = np.take_along_axis(scores, index, -1)
    if attrs["normalise"]:
        weight = weight / (weight.sum(-1, keepdims=True) + attrs["eps"])
    return ordered(attrs, {"index": index.astype(np.int64), "weight": weight * attrs["scale"]})


def _gate_cost(inputs: Types, outputs: Types, attrs: Attrs) -> Cost:
    base = linear_cost(inputs[0].shape[0], inputs[1])
    return Cost(base.flops, dim(base.bytes + activations(inputs[0], *inputs[2:], *outputs)))


def swiglu(x: np.ndarray, gate: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
    return (silu(x @ gate.T) * (x @ up.T)) @ down.T


def _infer_moe(types: Types, attrs: Attrs) -> list[TensorType]:
    MOE.check(attrs)
    t = named(attrs, types)
    x, index = t["x"], t["index"]
    experts, double, _ = t["gate_up"].shape
    routed = index.dtype is DType.i64 and index.rank == 2 and same_shape(t["weight"].shape, index.shape)
    expect(routed, f"routing {index}, {t['weight']}")
    weight_type(t["gate_up"], experts, double, x.shape[1])
    weight_type(t["down"], experts, x.shape[1], double // 2)
    shared = [n for n in ("shared_gate", "shared_up", "shared_down") if n in t]
    expect(len(shared) in (0, 3), f"of the shared expert only {shared}")
    if shared:
        _check_swiglu(x, t["shared_gate"], t["shared_up"], t["shared_down"])
    return [x]


def _check_swiglu(x: TensorType, gate: TensorType, up: TensorType, down: TensorType) -> None:
    expect(x.rank == 2, f"input {x}")
    weight_type(gate, gate.shape[0], x.shape[1])
    weight_type(up, gate.shape[0], x.shape[1])
    weight_type(down, x.shape[1], gate.shape[0])


def _moe(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    a = named(attrs, arrays)
    x, inner = a["x"], a["down"].shape[2]
    out = np.zeros_like(x)
    for t, j in np.ndindex(*a["index"].shape):
        expert = a["index"][t, j]
        both = a["gate_up"][expert] @ x[t]
        out[t] += a["weight"][t, j] * (a["down"][expert] @ (silu(both[:inner]) * both[inner:]))
    if "shared_gate" in a:
        out = out + swiglu(x, a["shared_gate"], a["shared_up"], a["shared_down"])
    return [out]


def _moe_cost(inputs: Types, outputs: Types, attrs: Attrs) -> Cost:
    """Only chosen experts are read, each once: at most min(T * k, E) of them."""
    t = named(attrs, inputs)
    tokens, k = t["index"].shape
    experts = t["gate_up"].shape[0]
    per_expert = [TensorType(t[n].dtype, t[n].shape[1:]) for n in ("gate_up", "down")]
    read = smaller(dim(tokens * k), experts)
    shared = linear_cost(tokens, *(t[n] for n in ("shared_gate", "shared_up", "shared_down") if n in t))
    flops = 2 * tokens * k * sum(w.numel for w in per_expert) + shared.flops
    moved = read * sum(w.nbytes for w in per_expert) + shared.bytes
    return Cost(dim(flops), dim(moved + activations(t["x"], t["index"], t["weight"], *outputs)))


def _infer_ffn(types: Types, attrs: Attrs) -> list[TensorType]:
    _check_swiglu(*types)
    return [types[0]]


def _ffn_cost(inputs: Types, outputs: Types, attrs: Attrs) -> Cost:
    base = linear_cost(inputs[0].shape[0], *inputs[1:])
    return Cost(base.flops, dim(base.bytes + activations(inputs[0], *outputs)))


GATE = Signature(("x", "router", "bias"), ("index", "weight"), frozenset({"bias"}))
MOE = Signature(
    ("x", "index", "weight", "gate_up", "down", "shared_gate", "shared_up", "shared_down"), ("out",),
    frozenset({"shared_gate", "shared_up", "shared_down"}),
)  # fmt: skip

define(OpDef("moe_gate", None, _infer_gate, _gate,
             {**NAMES, "k": (int,), "normalise": (bool,), "scale": (float,), "eps": (float,)}, kind="fused", cost=_gate_cost,
             signature=GATE, tolerance=1e-4,
             doc="Biased sigmoid routing: the k experts of the highest sigmoid(router x) + bias (lowest index first among "
                 "equals), and their unbiased scores, normalised and scaled."))  # fmt: skip
define(OpDef("moe_ffn", None, _infer_moe, _moe, NAMES, kind="fused", cost=_moe_cost, signature=MOE, tolerance=1e-4,
             doc="Weighted sum of the chosen experts' SwiGLU (gate_up[E, 2F, H]: gate first) and of the shared one."))  # fmt: skip
define(OpDef("dense_ffn", 4, _infer_ffn, lambda a, t, e: [swiglu(*a)], {}, kind="fused", cost=_ffn_cost, tolerance=1e-4,
             doc="SwiGLU: down(silu(gate x) * up x); gate and up [F, H], down [H, F]."))  # fmt: skip
