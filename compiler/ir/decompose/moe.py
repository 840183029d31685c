"""Decompositions of the feed-forward operators (see ops/moe.py and ops/fused.py): experts are gathered by index."""

from __future__ import annotations

from collections.abc import Mapping

from ..graph import Value
from ..opdef import Attrs
from .emit import Emit
from .table import plain, slotted

Named = Mapping[str, Value]


@plain("dense_ffn")
def dense_ffn(e: Emit, attrs: Attrs, x: Value, gate: Value, up: Value, down: Value) -> Value:
    return e.project(e.swiglu(e.project(x, gate), e.project(x, up)), down)


@slotted("moe_gate")
def _moe_gate(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    scores = e.build("sigmoid", e.project(t["x"], t["router"]))
    biased = e.add(scores, t["bias"]) if "bias" in t else scores
    _, index = e.build.multi("topk", biased, k=attrs["k"])
    weight = e.build("take_along", scores, index)
    if attrs["normalise"]:
        weight = e.div(weight, e.add(e.build("reduce_sum", weight, axes=(1,)), attrs["eps"]))
    return {"index": index, "weight": e.mul(weight, attrs["scale"])}


@plain("expert_linear")
def expert_linear(e: Emit, attrs: Attrs, x: Value, weight: Value, index: Value) -> Value:
    """y[t, k] = weight[index[t, k]] @ x[t] (or x[t, k])."""
    tokens, k = index.type.shape
    rows = (tokens, 1 if x.type.rank == 2 else k, x.type.shape[-1], 1)
    chosen = e.build.cast(e.build("take", weight, index), x.type.dtype)
    product = e.build("matmul", chosen, e.build.reshape(x, rows))
    return e.build.reshape(product, (tokens, k, weight.type.shape[1]))


@slotted("moe_ffn")
def _moe_ffn(e: Emit, attrs: Attrs, t: Named) -> dict[str, Value]:
    x, index = t["x"], t["index"]
    tokens, k = index.type.shape
    both = expert_linear(e, attrs, x, t["gate_up"], index)
    inner = int(both.type.shape[2]) // 2
    mixed = e.swiglu(e.part(both, 2, 0, inner), e.part(both, 2, inner, 2 * inner))
    down = expert_linear(e, attrs, mixed, t["down"], index)
    out = e.total(e.mul(down, e.build.reshape(t["weight"], (tokens, k, 1))), 1)
    if "shared_gate" in t:
        out = e.add(out, dense_ffn(e, attrs, x, t["shared_gate"], t["shared_up"], t["shared_down"]))
    return {"out": out}
