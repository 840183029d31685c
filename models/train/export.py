"""Writes parameters as a Hugging Face checkpoint folder: bf16, one tensor per expert, as released models have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


def hf_tensors(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """bf16 tensors under the released models' names."""
    out: dict[str, Tensor] = {}
    for name, value in params.items():
        value = value.detach().to(torch.bfloat16).contiguous()
        if name.endswith(".experts.gate_up_proj"):
            base, half = name.removesuffix(".gate_up_proj"), value.shape[1] // 2
            for e, expert in enumerate(value):
                out[f"{base}.{e}.gate_proj.weight"] = expert[:half].contiguous()
                out[f"{base}.{e}.up_proj.weight"] = expert[half:].contiguous()
        elif name.endswith(".experts.down_proj"):
            for e, expert in enumerate(value):
                out[f"{name.removesuffix('.down_proj')}.{e}.down_proj.weight"] = expert.contiguous()
        else:
            out[name] = value
    return out


def save_checkpoint(folder: Path, config: dict[str, Any], params: dict[str, Tensor]) -> None:
    """config.json and model.safetensors; the safetensors file is replaced in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    part = folder / "model.safetensors.part"
    save_file(hf_tensors(params), str(part), metadata={"format": "pt"})
    part.chmod(0o644)  # save_file makes it private
    part.replace(folder / "model.safetensors")
