"""The small checkpoint's config and its initial parameters (reference state_dict names)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CONFIG: dict[str, Any] = {
    "architectures": ["OpenPanguV2ForCausalLM"],
    "model_type": "openpangu_v2",
    "vocab_size": 768,
    "hidden_size": 128,
    "num_hidden_layers": 6,
    "num_nextn_predict_layers": 3,
    "intermediate_size": 384,
    "hidden_act": "silu",
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "router_enable_expert_bias": True,
    "num_attention_heads": 4,
    "q_lora_rank": 96,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "rope_theta": 10000.0,
    "rope_interleave": False,
    "max_position_embeddings": 2048,
    "index_n_heads": 4,
    "index_head_dim": 32,
    "index_topk": 128,
    "dsa_layers": [0, 3],
    "swa_layers": [1, 2, 4, 5, 6, 7, 8],
    "sliding_window_list": [64, 64, 64, 64, 128, 128, 128],
    "param_sink_number": 8,
    "use_mome": True,
    "router_sliding_window": 3,
    "use_mhc": True,
    "mhc_num_stream": 4,
    "mhc_recur_norm": 20,
    "mhc_use_gamma": True,
    "sandwich_norm": True,
    "block_post_layernorm_idx": [2, 5],
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 3,
    "torch_dtype": "bfloat16",
}


class _Init:
    """Collects parameters; matrices are drawn with std 1/sqrt(fan in)."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.p: dict[str, Tensor] = {}

    def normal(self, name: str, shape: tuple[int, ...], std: float) -> None:
        self.p[name] = torch.randn(shape, generator=self.generator) * std

    def matrix(self, name: str, rows: int, cols: int) -> None:
        self.normal(name, (rows, cols), cols**-0.5)

    def full(self, name: str, size: tuple[int, ...], value: float) -> None:
        self.p[name] = torch.full(size, value)

    def swiglu(self, name: str, hidden: int, width: int) -> None:
        self.matrix(f"{name}.gate_proj.weight", width, hidden)
        self.matrix(f"{name}.up_proj.weight", width, hidden)
        self.matrix(f"{name}.down_proj.weight", hidden, width)


def _attention(init: _Init, name: str, c: dict[str, Any], indexer: bool) -> None:
    hidden, heads, q_rank, kv_rank = c["hidden_size"], c["num_attention_heads"], c["q_lora_rank"], c["kv_lora_rank"]
    nope, rope, v, k = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"], c["router_sliding_window"]
    init.matrix(f"{name}.q_a_proj.weight", q_rank, hidden)
    init.matrix(f"{name}.q_b_proj.weight", heads * (nope + rope), q_rank)
    init.matrix(f"{name}.kv_a_proj_with_mqa.weight", kv_rank + rope, hidden)
    init.matrix(f"{name}.kv_b_proj.weight", heads * (nope + v), kv_rank)
    init.matrix(f"{name}.o_proj.weight", hidden, heads * v)
    init.full(f"{name}.q_a_layernorm.weight", (q_rank,), 1.0)
    init.full(f"{name}.kv_a_layernorm.weight", (kv_rank,), 1.0)
    for conv, width in (("qa_conv", q_rank), ("compresskv_conv", kv_rank), ("o_conv", heads * v)):
        init.normal(f"{name}.{conv}.weight", (width, 1, k), 0.02)
    init.normal(f"{name}.param_sink_compressed_kv", (c["param_sink_number"], kv_rank), 1.0)
    init.normal(f"{name}.param_sink_k_pe", (c["param_sink_number"], rope), 0.5)
    if indexer:
        heads, dim = c["index_n_heads"], c["index_head_dim"]
        init.matrix(f"{name}.indexer.wq_b.weight", heads * dim, q_rank)
        init.matrix(f"{name}.indexer.wk.weight", dim, hidden)
        init.full(f"{name}.indexer.k_norm.weight", (dim,), 1.0)
        init.matrix(f"{name}.indexer.weights_proj.weight", heads, hidden)


def _moe(init: _Init, name: str, c: dict[str, Any]) -> None:
    hidden, experts, width = c["hidden_size"], c["n_routed_experts"], c["moe_intermediate_size"]
    init.normal(f"{name}.gate.weight", (experts, hidden), 0.02)
    init.full(f"{name}.e_score_correction_bias", (experts,), 0.0)
    init.normal(f"{name}.experts.gate_up_proj", (experts, 2 * width, hidden), hidden**-0.5)
    init.normal(f"{name}.experts.down_proj", (experts, hidden, width), width**-0.5)
    init.swiglu(f"{name}.shared_experts", hidden, width * c["n_shared_experts"])


def _mhc(init: _Init, name: str, c: dict[str, Any], favoured: int) -> None:
    """One hyper-connection: reads mostly stream `favoured`, writes to all, and starts near the identity."""
    n, hidden = c["mhc_num_stream"], c["hidden_size"]
    init.normal(f"{name}.phi.weight", (n * (n + 2), n * hidden), (n * hidden) ** -0.5)
    init.full(f"{name}.branch_alpha", (3,), 0.1)
    pre = torch.full((n,), -1.5)
    pre[favoured % n] = 1.5
    init.p[f"{name}.branch_beta"] = torch.cat([pre, torch.zeros(n), (3.0 * torch.eye(n)).flatten()])
    init.full(f"{name}.norm_gamma", (n * hidden,), 1.0)


def initial_parameters(c: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """Float32 parameters by name; e_score_correction_bias is a buffer (no gradient)."""
    init = _Init(seed)
    hidden, n, base = c["hidden_size"], c["mhc_num_stream"], c["num_hidden_layers"]
    init.normal("model.embed_tokens.weight", (c["vocab_size"], hidden), 0.5)
    init.normal("lm_head.weight", (c["vocab_size"], hidden), 0.01)
    init.full("model.norm.weight", (hidden,), 1.0)
    init.normal("model.merge_mhc_module.phi.weight", (n, n * hidden), (n * hidden) ** -0.5)
    init.full("model.merge_mhc_module.branch_alpha_pre", (1,), 0.1)
    init.full("model.merge_mhc_module.branch_beta_pre", (n,), 0.0)
    init.full("model.merge_mhc_module.norm_gamma", (n * hidden,), 1.0)
    for layer in range(base + c["num_nextn_predict_layers"]):
        name, mtp = f"model.layers.{layer}", layer >= base
        for norm, value in (("input_layernorm", 1.0), ("post_attention_layernorm", 0.4), ("pre_mlp_layernorm", 1.0),
                            ("post_mlp_layernorm", 0.4)):
            init.full(f"{name}.{norm}.weight", (hidden,), value)
        _attention(init, f"{name}.self_attn", c, layer in c["dsa_layers"])
        if layer >= c["first_k_dense_replace"]:
            _moe(init, f"{name}.mlp", c)
        else:
            init.swiglu(f"{name}.mlp", hidden, c["intermediate_size"])
        if mtp:
            init.matrix(f"{name}.eh_proj.weight", hidden, 2 * hidden)
            for norm in ("enorm", "hnorm", "shared_head.norm"):
                init.full(f"{name}.{norm}.weight", (hidden,), 1.0)
            continue
        _mhc(init, f"{name}.attn_mhc_module", c, 2 * layer)
        _mhc(init, f"{name}.mlp_mhc_module", c, 2 * layer + 1)
        if layer in c["block_post_layernorm_idx"]:
            init.full(f"{name}.block_post_layernorm.weight", (n * hidden,), 1.0)
    return init.p
