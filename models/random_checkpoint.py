"""Random configurations over the whole configuration space, and random checkpoints of any configuration.

The weights keep activations of order one and give logits a healthy spread, so that compiled and reference results can
be compared; no norm, bias or sink is trivial, so that leaving one out shows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .config import OpenPanguConfig
from .tensors import DOWN, EMBED, GATE_UP, HEAD, ROUTER_BIAS, parameter_shapes

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
LOGIT_SPREAD = 2.5
# Kinds that base layers may have; "flash" is its 1:2 pattern.
PATTERNS = {"flash": (), "any": ("dsa", "dsa", "swa", "swa", "dense"), "no_dsa": ("swa", "swa", "dense"),
            "no_swa": ("dsa", "dsa", "dense"), "dense": ("dense",)}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """The range, both ends included, of what a random configuration draws: channels, ranks and experts."""

    hidden: tuple[int, int] = (9, 40)
    heads: tuple[int, int] = (1, 5)
    rank: tuple[int, int] = (5, 24)  # of the latent and the low-rank query
    head: tuple[int, int] = (3, 17)  # nope and value channels of a head
    half_rope: tuple[int, int] = (1, 5)
    inner: tuple[int, int] = (9, 50)
    experts: tuple[int, int] = (3, 9)
    expert_inner: tuple[int, int] = (5, 24)


TINY = Sizes()
SMALL = Sizes((64, 192), (1, 7), (24, 96), (9, 48), (3, 16), (60, 300), (5, 16), (20, 90))


def random_config(seed: int, sizes: Sizes = TINY) -> OpenPanguConfig:
    """A configuration of these sizes; every switch of the format varies with the seed, and the same seed gives the same one."""
    r = Random(seed)
    base, heads = r.randint(1, 5), r.randint(0, 3)
    rope = 2 * r.randint(*sizes.half_rope)
    raw: dict[str, Any] = {
        "vocab_size": r.randint(50, 300), "hidden_size": r.randint(*sizes.hidden), "num_hidden_layers": base,
        "num_nextn_predict_layers": heads, "num_attention_heads": r.randint(*sizes.heads), "kv_lora_rank": r.randint(*sizes.rank),
        "q_lora_rank": r.choice([None, r.randint(*sizes.rank), r.randint(*sizes.rank)]),
        "qk_nope_head_dim": r.randint(*sizes.head), "qk_rope_head_dim": rope, "v_head_dim": r.randint(*sizes.head),
        "intermediate_size": r.randint(*sizes.inner),
        "max_position_embeddings": r.randint(256, 1024), "rope_theta": r.choice([1e2, 1e4, 6.4e6]),
        "rms_norm_eps": r.choice([1e-5, 1e-6]), "tie_word_embeddings": r.random() < 0.3,
        "param_sink_number": r.choice([0, 1, r.randint(2, 9)]), "use_mome": r.random() < 0.75,
        "router_sliding_window": r.randint(2, 4), "sandwich_norm": r.random() < 0.7, "eos_token_id": 2,
        "block_post_layernorm_idx": sorted(r.sample(range(base), r.randint(0, base) if r.random() < 0.6 else 0)),
    }  # fmt: skip
    if r.random() < 0.75:
        raw |= {"use_mhc": True, "mhc_num_stream": r.randint(1, 4), "mhc_recur_norm": r.choice([1, 2, 5, 20]),
                "mhc_use_gamma": r.random() < 0.6}  # fmt: skip
    if r.random() < 0.8:
        experts = r.randint(*sizes.experts)
        raw |= {
            "n_routed_experts": experts, "num_experts_per_tok": r.randint(1, min(4, experts)),
            "n_shared_experts": r.randint(0, 2), "moe_intermediate_size": r.randint(*sizes.expert_inner),
            "first_k_dense_replace": r.randint(0, base), "norm_topk_prob": r.random() < 0.6,
            "routed_scaling_factor": r.choice([1.0, 1.7, 2.5]), "router_enable_expert_bias": r.random() < 0.7,
        }  # fmt: skip
    raw |= _random_layers(r, base, heads, rope)
    return OpenPanguConfig.from_dict(raw)


def _random_layers(r: Random, base: int, heads: int, rope: int) -> dict[str, Any]:
    """Which layer attends how: dsa_layers, swa_layers, windows, and the indexer's sizes."""
    pattern = r.choice(["flash", "any", "any", "no_dsa", "no_swa", "dense"])
    kinds = PATTERNS[pattern]
    chosen = [r.choice(kinds) if kinds else ("swa" if i % 3 else "dsa") for i in range(base)]
    # An MTP layer that is listed nowhere takes sliding_window, and is dense where that is absent.
    chosen += [r.choice(["swa", "swa", "unlisted", "dsa" if pattern == "any" else "swa"]) for _ in range(heads)]
    dsa = [i for i, kind in enumerate(chosen) if kind == "dsa"]
    swa = [i for i, kind in enumerate(chosen) if kind == "swa"]
    raw: dict[str, Any] = {"dsa_layers": dsa, "swa_layers": swa}
    if dsa:
        raw |= {"index_n_heads": r.randint(1, 4), "index_head_dim": rope + r.randint(0, 9),
                "index_topk": r.randint(4, 64), "index_k_norm_bias": r.random() < 0.2}  # fmt: skip
    if r.random() < 0.5 or swa:
        raw["sliding_window"] = r.randint(1, 40)
    if swa and r.random() < 0.75:
        raw["sliding_window_list"] = [r.choice([1, r.randint(2, 8), r.randint(4, 40)]) for _ in swa]
        if r.random() < 0.6:
            del raw["sliding_window"]
    return raw


def random_tensors(config: OpenPanguConfig, seed: int) -> dict[str, Tensor]:
    """Canonical name -> float32 values."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: random_values(name, torch.randn(shape, generator=generator), config)
        for name, shape in parameter_shapes(config).items()
    }


def random_values(name: str, noise: Tensor, config: OpenPanguConfig) -> Tensor:
    """Scales unit noise to the part that the parameter plays."""
    if name == HEAD or (name == EMBED and config.tie_word_embeddings):
        return noise * (LOGIT_SPREAD * config.hidden_size**-0.5)
    if name == EMBED or ".param_sink_" in name:
        return noise
    if "branch_alpha" in name:
        return 0.6 + 0.2 * noise
    if "branch_beta" in name:
        return 0.7 * noise
    if name.endswith((ROUTER_BIAS, ".bias")):
        return 0.2 * noise
    if "norm" in name:  # layer norms and norm_gamma
        return 1 + 0.2 * noise
    if "_conv." in name:
        return noise * (0.5 * noise.shape[-1] ** -0.5)
    spread = 1.5 if ".gate.weight" in name else 1.0
    return noise * (spread * noise.shape[-1] ** -0.5)


def write_random_checkpoint(
    folder: str | Path, config: OpenPanguConfig, seed: int = 0, dtype: str = "bf16", stacked_experts: bool = False,
    shards: int = 1, bias_in_gate: bool = False, copies: bool = False, mhc_f32: bool = False,
) -> Path:
    """Write a Hugging Face checkpoint folder with random weights; the same arguments give the same bytes.

    Args:
        dtype: "bf16", "f16" or "f32".
        stacked_experts: .experts.gate_up_proj [E, 2F, H] instead of one tensor per expert.
        shards: more than 1 writes that many files and an index.
        bias_in_gate: name the router's bias .mlp.gate.e_score_correction_bias.
        copies: store the optional copies too (MTP embed_tokens and shared_head.head; lm_head when tied).
        mhc_f32: keep the mHC tensors in float32.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in random_tensors(config, seed).items():
        kept = value if mhc_f32 and "_mhc_module." in name else value.to(DTYPES[dtype])
        tensors |= _stored(name, kept, stacked_experts, bias_in_gate)
    if copies:
        tensors |= _copies(config, tensors)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    _write(folder, tensors, shards)
    return folder


def tiny_checkpoint(folder: str | Path, seed: int) -> Path:
    """A random checkpoint of a random configuration: both follow from the seed."""
    return write_random_checkpoint(folder, random_config(seed), seed)


def _stored(name: str, value: Tensor, stacked: bool, bias_in_gate: bool) -> dict[str, Tensor]:
    """A parameter under the names that the checkpoint gives it."""
    if name.endswith(GATE_UP) and not stacked:
        base, half = name.removesuffix(".gate_up_proj"), value.shape[1] // 2
        gates = {f"{base}.{e}.gate_proj.weight": part[:half].clone() for e, part in enumerate(value)}
        return gates | {f"{base}.{e}.up_proj.weight": part[half:].clone() for e, part in enumerate(value)}
    if name.endswith(DOWN) and not stacked:
        base = name.removesuffix(".down_proj")
        return {f"{base}.{e}.down_proj.weight": part.clone() for e, part in enumerate(value)}
    if name.endswith(ROUTER_BIAS) and bias_in_gate:
        return {name.removesuffix(ROUTER_BIAS) + ".gate" + ROUTER_BIAS: value}
    return {name: value}


def _copies(config: OpenPanguConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    embed = tensors[EMBED]
    head = embed if config.tie_word_embeddings else tensors[HEAD]
    copies = {HEAD: head.clone()}
    for layer in range(config.num_hidden_layers, config.num_layers):
        copies[f"model.layers.{layer}.embed_tokens.weight"] = embed.clone()
        copies[f"model.layers.{layer}.shared_head.head.weight"] = head.clone()
    return copies


def _write(folder: Path, tensors: dict[str, Tensor], shards: int) -> None:
    metadata = {"format": "pt"}
    if shards == 1:
        save_file(tensors, str(folder / "model.safetensors"), metadata=metadata)
        return
    weight_map: dict[str, str] = {}
    for i in range(shards):
        names, file = list(tensors)[i::shards], f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file({n: tensors[n] for n in names}, str(folder / file), metadata=metadata)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
