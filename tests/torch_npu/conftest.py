"""Two small models, traced and optimised once, and artifacts of them with any weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pangu_compile.driver.artifact import ArtifactWriter
from pangu_compile.driver.build import canonical_reader
from pangu_compile.driver.checkpoint import Checkpoint
from pangu_compile.driver.emit import Job, emit
from pangu_compile.driver.options import make_options
from pangu_compile.driver.progress import Silent
from pangu_compile.driver.targets.program import ProgramModel
from pangu_compile.driver.targets.torch_npu import Request, write_artifact
from pangu_compile.driver.toolchain import find_compiler
from pangu_compile.ir import Module
from pangu_compile.models.config import OpenPanguConfig
from pangu_compile.models.loading import load_reference
from pangu_compile.models.programs import build_programs
from pangu_compile.models.random_checkpoint import random_config, write_random_checkpoint
from pangu_compile.models.reference import OpenPanguForCausalLM
from pangu_compile.passes import run_passes
from pangu_compile.plan import PlanOptions, make_plan
from pangu_compile.trace import trace_programs

# Every feature of Flash, at the widths that the vendor's sparse attention, convolution and mHC operators take.
FLASH = {
    "vocab_size": 150, "hidden_size": 48, "num_hidden_layers": 2, "num_nextn_predict_layers": 1, "num_attention_heads": 3,
    "kv_lora_rank": 512, "q_lora_rank": 128, "qk_nope_head_dim": 20, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "intermediate_size": 40, "max_position_embeddings": 256, "rope_theta": 1e4, "rms_norm_eps": 1e-5, "param_sink_number": 5,
    "use_mome": True, "router_sliding_window": 3, "sandwich_norm": True, "block_post_layernorm_idx": [1], "use_mhc": True,
    "mhc_num_stream": 4, "mhc_recur_norm": 20, "mhc_use_gamma": True, "n_routed_experts": 6, "num_experts_per_tok": 2,
    "n_shared_experts": 1, "moe_intermediate_size": 24, "first_k_dense_replace": 1, "norm_topk_prob": True,
    "routed_scaling_factor": 2.5, "router_enable_expert_bias": True, "dsa_layers": [0], "swa_layers": [1, 2],
    "sliding_window": 12, "index_n_heads": 8, "index_head_dim": 128, "index_topk": 16, "eos_token_id": 2,
}  # fmt: skip
CONTEXT, CHUNK = 128, 16


@dataclasses.dataclass
class Traced:
    """An optimised module; `artifact` writes one with weights of a seed, `reference` is the torch reference of the same."""

    name: str
    config: OpenPanguConfig
    module: Module
    folder: Path

    def checkpoint(self, seed: int) -> Path:
        path = self.folder / f"checkpoint_{seed}"
        if not path.exists():
            write_random_checkpoint(path, self.config, seed)
        return path

    def artifact(self, chip: str, dtype: str, seed: int, name: str = "") -> Path:
        out = self.folder / f"{chip}_{dtype}_{seed}{name}.pangu"
        if not out.exists():
            read = canonical_reader(Checkpoint.open(self.checkpoint(seed)), self.config)
            write_artifact(Request(self.module, read, chip, dtype, CONTEXT, self.info(), CHUNK), out, Silent())
        return out

    def info(self) -> dict[str, Any]:
        c = self.config
        return {"config": c.to_dict(), "vocab_size": c.vocab_size, "hidden_size": c.hidden_size,
                "num_drafts": c.num_nextn_predict_layers, "eos_token_ids": []}  # fmt: skip

    def cpu(self, seed: int) -> Path:
        """The artifact of the same module and weights for this machine."""
        out = self.folder / f"cpu_{seed}.pangu"
        if not out.exists():
            read = canonical_reader(Checkpoint.open(self.checkpoint(seed)), self.config)
            module = dataclasses.replace(self.module, info={**self.module.info, **self.info()})
            plan = make_plan(module, PlanOptions(max_context=CONTEXT, max_chunk=CHUNK))
            with ArtifactWriter(out) as writer:
                emit(Job(plan, read, make_options(opt_level=1), find_compiler(None), self.info()), writer, Silent())
        return out

    def model(self, chip: str, dtype: str, seed: int) -> ProgramModel:
        return ProgramModel(self.artifact(chip, dtype, seed))

    def reference(self, seed: int) -> OpenPanguForCausalLM:
        return load_reference(self.checkpoint(seed), dtype=torch.float32)


def _traced(name: str, config: OpenPanguConfig, folder: Path) -> Traced:
    specs = build_programs(config, steps=())
    return Traced(name, config, run_passes(trace_programs(specs)), folder)


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Traced]:
    """By name: "flash", or "plain" (no mHC, no sinks, a q_proj, two sparse layers and two MTP heads)."""
    known: dict[str, Traced] = {}

    def get(name: str) -> Traced:
        if name not in known:
            config = OpenPanguConfig.from_dict(FLASH) if name == "flash" else random_config(4)
            known[name] = _traced(name, config, tmp_path_factory.mktemp(name))
        return known[name]

    return get
