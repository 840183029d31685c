"""One small model with every mechanism, built once for the runtime's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

import pangu_compile
from pangu_compile.models.config import OpenPanguConfig
from pangu_compile.models.random_checkpoint import write_random_checkpoint

CONFIG = {
    "vocab_size": 12, "hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2, "kv_lora_rank": 10,
    "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5, "intermediate_size": 24, "q_lora_rank": 9,
    "num_nextn_predict_layers": 3, "max_position_embeddings": 256, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 7, "first_k_dense_replace": 1, "router_enable_expert_bias": True, "dsa_layers": [0],
    "index_n_heads": 2, "index_head_dim": 6, "index_topk": 16, "swa_layers": [1, 3, 4, 5], "sliding_window": 9,
    "param_sink_number": 3, "use_mome": True, "use_mhc": True, "mhc_num_stream": 2, "mhc_recur_norm": 2,
    "mhc_use_gamma": True, "sandwich_norm": True,
}  # fmt: skip


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtime")
    write_random_checkpoint(folder / "checkpoint", OpenPanguConfig.from_dict(CONFIG), seed=3, dtype="f32")
    pangu_compile.build(folder / "checkpoint", folder / "model.pangu", max_context=64, max_chunk=8, opt_level=1)
    return folder / "model.pangu"
