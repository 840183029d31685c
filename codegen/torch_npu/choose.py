"""Vendor operator or our own decomposition, for every step of a fused operator, by chip, dtype and sizes.

A step takes the vendor's operator only where the availability table has it on the chip and every documented limit holds;
else the reason is kept, and the step is plain torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pangu_compile.ir import TensorType

from .availability import exists

Types = Mapping[str, TensorType]
Attrs = Mapping[str, Any]
MHC_STREAMS = (4, 6, 8)
INDEX_HEADS_950 = (8, 16, 24, 32, 64)
LONG_TOPK = (3072, 4096, 5120, 6144, 7168, 8192)


@dataclass(frozen=True)
class Target:
    """Chip, and dtype of activations, matrices and states ("bf16" or "f32")."""

    chip: str
    dtype: str

    @property
    def sixteen(self) -> bool:
        return self.dtype == "bf16"


@dataclass(frozen=True)
class Choice:
    """A step: the vendor's operators for it, and why they are not used (empty: they are)."""

    operators: tuple[str, ...]
    reason: str = ""

    @property
    def vendor(self) -> bool:
        return not self.reason


def _choice(target: Target, operators: tuple[str, ...], limits: Mapping[str, bool]) -> Choice:
    for name in operators:
        if not exists(name, target.chip):
            return Choice(operators, f"{name} does not exist on {target.chip}")
    broken = next((what for what, holds in limits.items() if not holds), "")
    return Choice(operators, broken and f"needs {broken}")


def _rotary(target: Target, heads: Any, width: Any) -> Choice:
    limits = {"an even width below 896": width % 2 == 0 and width < 896, "fewer than 1000 heads": heads < 1000}
    return _choice(target, ("npu_rotary_mul",), limits)


def _conv(target: Target, weight: TensorType) -> Choice:
    channels, _, taps = weight.shape
    limits = {"16-bit activations": target.sixteen, "a kernel of 3": taps == 3, "channels divisible by 128": channels % 128 == 0}
    return _choice(target, ("npu_fused_causal_conv1d",), limits)


def _prologue(target: Target, t: Types, attrs: Attrs) -> dict[str, Choice]:
    steps = {"rotary": _rotary(target, attrs["heads"], t["table"].shape[1])}
    return steps | {f"{p}_conv": _conv(target, t[f"{p}_conv"]) for p in ("q", "kv") if f"{p}_conv" in t}


def _index(target: Target, t: Types, attrs: Attrs) -> dict[str, Choice]:
    return {"rotary": _rotary(target, attrs["heads"], t["table"].shape[1])}


def _output(target: Target, t: Types, attrs: Attrs) -> dict[str, Choice]:
    return {"o_conv": _conv(target, t["o_conv"])} if "o_conv" in t else {}


def _single_conv(target: Target, t: Types, attrs: Attrs) -> dict[str, Choice]:
    return {"conv": _conv(target, t["weight"])}


def _single_rotary(target: Target, t: Types, attrs: Attrs) -> dict[str, Choice]:
    return {"rotary": _rotary(target, t["x"].shape[1] if t["x"].rank == 3 else 1, t["table"].shape[1])}


def _mhc(target: Target, t: Types, attrs: Attrs) -> dict[str, Choice]:
    _, n, hidden = t["x"].shape
    streams = {"4, 6 or 8 streams": n in MHC_STREAMS}
    wide = {"16-bit activations": target.sixteen, **streams}
    steps = {}
    if "post" in t:
        steps["post"] = _choice(target, ("npu_mhc_post",), wide)
    if "phi" in t:
        aligned = {"a width divisible by 16, at most 16384": hidden % 16 == 0 and hidden <= 16384}
        steps["pre"] = _choice(target, ("npu_mhc_pre",), wide | aligned)
        turns = {"1 to 100 iterations": 1 <= attrs["iterations"] <= 100}
        steps["sinkhorn"] = _choice(target, ("npu_mhc_sinkhorn",), streams | turns)
    return steps


def _sinkhorn(target: Target, t: Types, attrs: Attrs) -> dict[str, Choice]:
    limits = {"4, 6 or 8 streams": t["raw"].shape[1] in MHC_STREAMS, "1 to 100 iterations": 1 <= attrs["iterations"] <= 100}
    return {"sinkhorn": _choice(target, ("npu_mhc_sinkhorn",), limits)}


def _gate(target: Target, t: Types, attrs: Attrs) -> dict[str, Choice]:
    experts = t["router"].shape[0]
    limits = {"normalised weights (the vendor's sigmoid mode always divides by the sum)": attrs["normalise"],
              "3 to 2048 experts": 3 <= experts <= 2048}  # fmt: skip
    return {"gate": _choice(target, ("npu_moe_gating_top_k",), limits)}


def _experts(target: Target, t: Types, attrs: Attrs) -> dict[str, Choice]:
    limits = {"2 experts or more": t["gate_up"].shape[0] >= 2, "at most 512 experts a token": t["index"].shape[1] <= 512}
    operators = ("npu_moe_init_routing_v2", "npu_grouped_matmul", "npu_swiglu", "npu_moe_token_unpermute")
    return {"experts": _choice(target, operators, limits)}


def _sparse(target: Target, t: Types, attrs: Attrs) -> dict[str, Choice]:
    _, heads, width = t["q"].shape
    latent, index_heads, index_width = t["kv_b"].shape[1], t["iq"].shape[1], t["iq"].shape[2]
    few = index_heads in INDEX_HEADS_950 if target.chip == "ascend950" else index_heads <= 64
    rows = 1 <= attrs["topk"] <= 2048 or attrs["topk"] in LONG_TOPK
    limits = {
        "16-bit activations": target.sixteen, "a latent width of 512": latent == 512,
        "a rotary width of 64": width - attrs["nope"] == 64, "at most 128 heads": heads <= 128,
        "an index width of 128": index_width == 128, "a supported number of index heads": few,
        "a supported index_topk": rows,
    }  # fmt: skip
    return {"sparse": _choice(target, ("npu_lightning_indexer", "npu_sparse_flash_attention"), limits)}


# The vendor's attention operators do not fit these: sinks are keys and values of their own (the vendor's are one number a
# head), and npu_fused_infer_attention_score in latent space knows no window, wants paged caches, at most 16 queries a call.
_WINDOW = Choice(("npu_fused_infer_attention_score_v2",), "knows neither sinks with values nor a window in latent space")


def _window(target: Target, t: Types, attrs: Attrs) -> dict[str, Choice]:
    return {"attention": _WINDOW}


def _residual(target: Target, t: Types, attrs: Attrs) -> dict[str, Choice]:
    if "norm" not in t:
        return {}
    return {"add_norm": _choice(target, ("npu_add_rms_norm",), {"no block_post norm between sum and norm": "block_norm" not in t})}


_RULES: dict[str, Any] = {
    "mla_prologue": _prologue, "index_prologue": _index, "attention_output": _output, "mome_conv": _single_conv,
    "rotary": _single_rotary, "mhc_pre": _mhc, "mhc_post": _mhc, "mhc_post_pre": _mhc, "sinkhorn": _sinkhorn,
    "moe_gate": _gate, "moe_ffn": _experts, "dsa_attention": _sparse, "swa_attention": _window, "dense_attention": _window,
    "residual": _residual,
}  # fmt: skip


def choose(op: str, types: Types, attrs: Attrs, target: Target) -> dict[str, Choice]:
    """Step -> choice, for a fused operator with these operands (by slot)."""
    return _RULES[op](target, types, attrs) if op in _RULES else {}


def padded_heads(heads: int, chip: str) -> int:
    """Query heads that npu_sparse_flash_attention is called with: a power of two on A2 and A3."""
    return heads if chip == "ascend950" else 1 << (heads - 1).bit_length()
