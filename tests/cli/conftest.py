"""One tiny random checkpoint and its artifact for all command-line tests; tests that damage one work on a copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pangu_compile.cli import main

CONFIG: dict[str, Any] = {
    "model_type": "openpangu_v2", "vocab_size": 61, "hidden_size": 20, "num_hidden_layers": 3,
    "num_attention_heads": 3, "kv_lora_rank": 12, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5,
    "intermediate_size": 18, "q_lora_rank": 10, "num_nextn_predict_layers": 1, "max_position_embeddings": 96,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 7,
    "first_k_dense_replace": 1, "router_enable_expert_bias": True, "routed_scaling_factor": 1.5, "dsa_layers": [0],
    "index_n_heads": 2, "index_head_dim": 6, "index_topk": 9, "swa_layers": [1, 2, 3],
    "sliding_window_list": [5, 7, 6], "param_sink_number": 2, "use_mome": True, "use_mhc": True, "mhc_num_stream": 2,
    "mhc_recur_norm": 3, "mhc_use_gamma": True, "sandwich_norm": True, "block_post_layernorm_idx": [1],
}  # fmt: skip


# Two dense layers with full attention, for tests that build and are not about what is built: traced in a tenth of the time.
SMALL: dict[str, Any] = {
    name: CONFIG[name]
    for name in ("model_type", "vocab_size", "hidden_size", "num_attention_heads", "kv_lora_rank", "qk_nope_head_dim",
                 "qk_rope_head_dim", "v_head_dim", "intermediate_size", "max_position_embeddings")
} | {"num_hidden_layers": 2}  # fmt: skip


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command line in this process."""
    torch.set_num_threads(1)

    def call(*args: object) -> Result:
        capfd.readouterr()
        status = main([str(a) for a in args])
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return call


def make_checkpoint(folder: Path, config: dict[str, Any] | None = None, seed: int = 0) -> Path:
    """Random bf16 weights for a configuration, as one file."""
    from pangu_compile.models.config import OpenPanguConfig
    from pangu_compile.models.random_checkpoint import write_random_checkpoint

    torch.set_num_threads(1)
    write_random_checkpoint(folder, OpenPanguConfig.from_dict(config or CONFIG), seed=seed)
    return folder


@pytest.fixture(scope="session")
def shared_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def shared_artifact(tmp_path_factory: pytest.TempPathFactory, shared_checkpoint: Path) -> Path:
    import pangu_compile

    out: Path = pangu_compile.build(shared_checkpoint, tmp_path_factory.mktemp("artifact") / "tiny.pangu").path
    return out


@pytest.fixture
def checkpoint(tmp_path: Path, shared_checkpoint: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(shared_checkpoint, tmp_path / "ck"))


@pytest.fixture
def small_checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "ck", SMALL)


@pytest.fixture
def artifact(tmp_path: Path, shared_artifact: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(shared_artifact, tmp_path / "copy.pangu"))


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
