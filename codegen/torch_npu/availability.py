"""Which operator of namespace `npu` exists on which chip. What is not listed for a chip is never called there.

Sources: "project" is shared/ascend/README.md of this project; "wheel" is the list of supported products in the docstrings
of torch_npu 2.14; "op-plugin", "ops-transformer" and "ops-nn" are the product tables in the documentation of the
repositories Ascend/op-plugin, hicann/ops-transformer and hicann/ops-nn. Chips: ascend910b is Atlas A2, ascend910_93 Atlas A3.
"""

from __future__ import annotations

from dataclasses import dataclass

CHIPS = ("ascend910b", "ascend910_93", "ascend950")
ONLY_950 = ("ascend950",)


@dataclass(frozen=True)
class Availability:
    """Chips that have the operator, where that is said, and the documented limits that the choice of operators keeps to."""

    chips: tuple[str, ...]
    source: str
    limits: str = ""


TABLE: dict[str, Availability] = {
    "npu_rms_norm": Availability(CHIPS, "ops-nn aclnnRmsNorm: A2, A3, 950", "x and gamma of one dtype: f32, bf16, f16"),
    "npu_add_rms_norm": Availability(CHIPS, "ops-nn AddRmsNorm: A2, A3, 950", "as npu_rms_norm"),
    "npu_rotary_mul": Availability(
        CHIPS, "ops-transformer RotaryPositionEmbedding: A2, A3, 950",
        "4 axes, BSND with r1 1S1D; D even and below 896; B, N below 1000",
    ),
    "npu_swiglu": Availability(
        CHIPS, "ops-nn SwiGlu: A2, A3, 950", "halves of the last axis"
    ),
    "npu_moe_gating_top_k": Availability(
        CHIPS, "project; ops-transformer aclnnMoeGatingTopK: A2, A3, 950",
        "at most 2048 experts, more than 2 in a group; sigmoid scores are always normalised; no tie order is documented",
    ),
    "npu_moe_init_routing_v2": Availability(CHIPS, "project; op-plugin: A2, A3", "int32 experts; counts as int64"),
    "npu_grouped_matmul": Availability(CHIPS, "project; op-plugin: A2, A3", "f32 with single tensors only; 2 groups or more"),
    "npu_moe_token_unpermute": Availability(CHIPS, "project; wheel: A2, A3, 950", "A2 and A3: at most 512 experts a token"),
    "npu_lightning_indexer": Availability(
        CHIPS, "project; op-plugin: A2, A3, 950",
        "16-bit; head width 128; A2 and A3: at most 64 heads, 950: 8, 16, 24, 32 or 64; 1..2048 or 3072, 4096, .. 8192 rows",
    ),
    "npu_sparse_flash_attention": Availability(
        CHIPS, "project; op-plugin: A2, A3, 950",
        "16-bit; latent width 512 and rotary width 64; A2 and A3: heads a power of two up to 128, 950: 1..128",
    ),
    "npu_mhc_pre": Availability(
        ONLY_950, "project; wheel: 950", "16-bit x; 4, 6 or 8 streams; width divisible by 16, at most 16384"
    ),
    "npu_mhc_sinkhorn": Availability(ONLY_950, "project; wheel: A5 (950)", "f32; 4, 6 or 8 streams; 1..100 iterations"),
    "npu_mhc_post": Availability(ONLY_950, "project; wheel: 950", "16-bit x; 4, 6 or 8 streams"),
    "npu_fused_causal_conv1d": Availability(ONLY_950, "project; wheel: 950", "16-bit; kernel of 3; channels divisible by 128"),
}  # fmt: skip


def exists(operator: str, chip: str) -> bool:
    """Is `operator` (without its namespace) on `chip`? Unlisted operators are not."""
    return operator in TABLE and chip in TABLE[operator].chips
