"""--weights w8a8 on the CPU against the torch reference with the same roundings: int8 weights by row, activations by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import pangu_compile
from pangu_compile.driver.packing import quantise_q8
from pangu_compile.models.config import OpenPanguConfig
from pangu_compile.models.layers import MoE
from pangu_compile.models.loading import load_reference
from pangu_compile.models.random_checkpoint import write_random_checkpoint
from pangu_compile.runtime import Model

CONFIG = {
    "vocab_size": 90, "hidden_size": 64, "num_hidden_layers": 2, "num_nextn_predict_layers": 1, "num_attention_heads": 3,
    "kv_lora_rank": 36, "q_lora_rank": 40, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 14, "intermediate_size": 75,
    "max_position_embeddings": 64, "rope_theta": 1e4, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "param_sink_number": 2,
    "use_mome": True, "router_sliding_window": 3, "use_mhc": True, "mhc_num_stream": 2, "mhc_recur_norm": 3, "sandwich_norm": True,
    "n_routed_experts": 5, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 33, "first_k_dense_replace": 1,
    "norm_topk_prob": True, "routed_scaling_factor": 1.7, "router_enable_expert_bias": True, "eos_token_id": 2,
    "dsa_layers": [0], "swa_layers": [1, 2], "sliding_window": 7, "index_n_heads": 2, "index_head_dim": 12, "index_topk": 9,
}  # fmt: skip
PROJECTIONS = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj", "gate_proj", "up_proj", "down_proj", "eh_proj")


def rounded(x: Tensor) -> Tensor:
    """Rows as the int8 integers stand for that a product of int8 weights reads."""
    wide = x.to(torch.float32)
    peak = wide.abs().amax(-1, keepdim=True)
    integers = torch.round(wide * (1 / peak * 127))
    return integers.double() * (peak * np.float32(1 / 127)).double()


def stored(weight: Tensor) -> Tensor:
    q, scale = quantise_q8(weight.float().numpy().reshape(-1, weight.shape[-1]))
    return torch.from_numpy(q.astype(np.float64) * scale[:, None]).reshape(weight.shape)


class RoundedMoE(nn.Module):
    """The layer, with rows rounded before each expert's products."""

    def __init__(self, layer: MoE):
        super().__init__()
        self.layer, self.shared_experts = layer, layer.shared_experts
        self.gate_up, self.down = stored(layer.experts.gate_up_proj), stored(layer.experts.down_proj)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        chosen, weights = self.layer.route(flat)
        both = torch.einsum("nh,nkih->nki", rounded(flat), self.gate_up[chosen])
        gate, up = both.chunk(2, -1)
        each = torch.einsum("nki,nkhi->nkh", rounded(nn.functional.silu(gate) * up), self.down[chosen])
        return ((each * weights[..., None]).sum(1) + self.shared_experts(flat)).view(x.shape)


def emulation(checkpoint: Path) -> nn.Module:
    model = load_reference(checkpoint, dtype=torch.float64)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in PROJECTIONS:
            module.weight.copy_(stored(module.weight))
            module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))
        if isinstance(module, MoE):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, RoundedMoE(module))
    return model


@torch.no_grad()
def test_logits_are_those_of_the_rounded_reference(tmp_path: Path) -> None:
    """All but rows after an activation that rounds the other way, by less than a step of it."""
    torch.set_num_threads(1)
    checkpoint = write_random_checkpoint(tmp_path / "checkpoint", OpenPanguConfig.from_dict(CONFIG), seed=3)
    artifact = pangu_compile.build(checkpoint, tmp_path / "m.pangu", weights="w8a8", max_context=64, opt_level=1, jobs=1)
    prompt = np.random.default_rng(0).integers(0, 90, 24).tolist()
    with Model(artifact.path, threads=2) as model, model.session() as session:
        got = session.prefill(prompt, all_logits=True)
        session.truncate(20)
        assert (np.stack([session.decode(t) for t in prompt[20:]]) == got[20:]).all()
    exact = load_reference(checkpoint, dtype=torch.float64)(torch.tensor([prompt]))[0].numpy()
    want = emulation(checkpoint)(torch.tensor([prompt]))[0].numpy()
    error, moved = (np.abs(x - want).max(-1) / np.abs(want).max() for x in (got, exact))
    assert np.median(error) <= 1e-5 and error.max() <= 0.02
    assert np.median(moved) >= 0.004  # the roundings are there
