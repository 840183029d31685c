"""Random checkpoints of real widths, written shard by shard (bf16), for measurements.

    python benchmarks/checkpoints.py flash-slice build/flash-slice
    python benchmarks/checkpoints.py several-gb build/several-gb

flash-slice has the widths of openPangu-2.0-Flash in four base layers and one MTP layer; several-gb is made for the
streamed build. Same arguments, same bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from pangu_compile.models.config import OpenPanguConfig
from pangu_compile.models.random_checkpoint import random_values
from pangu_compile.models.tensors import DOWN, GATE_UP, layer_of, parameter_shapes

FLASH_SLICE: dict[str, Any] = {
    "hidden_size": 2560, "num_hidden_layers": 4, "num_nextn_predict_layers": 1, "intermediate_size": 9216,
    "moe_intermediate_size": 1024, "num_attention_heads": 48, "q_lora_rank": 1024, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "rope_theta": 6.4e6, "vocab_size": 32768,
    "max_position_embeddings": 131072, "n_routed_experts": 64, "num_experts_per_tok": 8, "n_shared_experts": 1,
    "first_k_dense_replace": 2, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "router_enable_expert_bias": True,
    "index_n_heads": 24, "index_head_dim": 128, "index_topk": 2048, "param_sink_number": 128, "use_mome": True,
    "router_sliding_window": 3, "use_mhc": True, "mhc_num_stream": 4, "mhc_recur_norm": 20, "mhc_use_gamma": True,
    "sandwich_norm": True, "dsa_layers": [0, 3], "swa_layers": [1, 2, 4], "sliding_window_list": [512, 512, 2048],
    "eos_token_id": 2,
}  # fmt: skip
SEVERAL_GB = {
    **FLASH_SLICE, "hidden_size": 1024, "num_hidden_layers": 10, "intermediate_size": 4096, "num_attention_heads": 16,
    "dsa_layers": [0, 3, 6, 9], "swa_layers": [1, 2, 4, 5, 7, 8, 10],
    "sliding_window_list": [512, 512, 512, 512, 512, 512, 2048], "block_post_layernorm_idx": [4, 9],
}  # fmt: skip
CONFIGS = {"flash-slice": FLASH_SLICE, "several-gb": SEVERAL_GB}


def write(folder: Path, config: OpenPanguConfig, seed: int = 0) -> int:
    """One shard a layer and one for the rest, with an index; returns the bytes of all tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[int, list[str]] = {}
    shapes = parameter_shapes(config)
    for name in shapes:
        layer = layer_of(name)
        groups.setdefault(-1 if layer is None else layer, []).append(name)
    weight_map: dict[str, str] = {}
    total = 0
    for number, (layer, names) in enumerate(sorted(groups.items()), 1):
        rng = np.random.default_rng([seed, layer + 1])
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors: dict[str, torch.Tensor] = {}
        for name in names:
            noise = torch.from_numpy(rng.standard_normal(shapes[name], dtype=np.float32))
            tensors |= per_expert(name, random_values(name, noise, config).to(torch.bfloat16))
        save_file(tensors, str(folder / file), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), "torch_dtype": "bfloat16"}, indent=1) + "\n")
    return total


def per_expert(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """Stacked experts under one name each, as released checkpoints have them."""
    if name.endswith(GATE_UP):
        base, half = name.removesuffix(".gate_up_proj"), value.shape[1] // 2
        parts = {"gate_proj": value[:, :half], "up_proj": value[:, half:]}
    elif name.endswith(DOWN):
        base, parts = name.removesuffix(".down_proj"), {"down_proj": value}
    else:
        return {name: value.contiguous()}
    return {f"{base}.{e}.{part}.weight": stack[e].clone() for part, stack in parts.items() for e in range(len(value))}


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in CONFIGS:
        sys.exit(f"usage: python benchmarks/checkpoints.py {{{','.join(CONFIGS)}}} FOLDER")
    folder = Path(sys.argv[2])
    total = write(folder, OpenPanguConfig.from_dict(CONFIGS[sys.argv[1]]))
    print(f"{folder}: {total / 1e9:.2f} GB of tensors")


if __name__ == "__main__":
    main()
