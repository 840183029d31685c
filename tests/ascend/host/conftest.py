"""One small checkpoint of odd sizes, built for the CPU and for Ascend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import pangu_compile
from pangu_compile.driver.artifact import ArtifactWriter
from pangu_compile.driver.build import canonical_reader
from pangu_compile.driver.checkpoint import Checkpoint
from pangu_compile.driver.emit import Job, emit
from pangu_compile.driver.manifest import model_entries
from pangu_compile.driver.optimise import optimise, traced_model
from pangu_compile.driver.options import make_options
from pangu_compile.driver.progress import Silent
from pangu_compile.driver.targets.ascend import Request, write_artifact
from pangu_compile.driver.toolchain import find_compiler
from pangu_compile.models.config import OpenPanguConfig
from pangu_compile.models.random_checkpoint import write_random_checkpoint
from pangu_compile.plan import PlanOptions, make_plan

CONFIG = {
    "vocab_size": 150, "hidden_size": 96, "num_hidden_layers": 3, "num_nextn_predict_layers": 2, "num_attention_heads": 3,
    "kv_lora_rank": 20, "q_lora_rank": 23, "qk_nope_head_dim": 9, "qk_rope_head_dim": 6, "v_head_dim": 11,
    "intermediate_size": 50, "max_position_embeddings": 256, "rope_theta": 1e4, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "param_sink_number": 3, "use_mome": True, "router_sliding_window": 3, "sandwich_norm": True,
    "eos_token_id": 2, "block_post_layernorm_idx": [1], "use_mhc": True, "mhc_num_stream": 3, "mhc_recur_norm": 5,
    "mhc_use_gamma": True, "n_routed_experts": 5, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 21,
    "first_k_dense_replace": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.7, "router_enable_expert_bias": True,
    "dsa_layers": [0], "swa_layers": [1, 3, 4], "sliding_window_list": [7, 16, 16], "index_n_heads": 2, "index_head_dim": 11,
    "index_topk": 24,
}  # fmt: skip

W8A8 = CONFIG | {
    "num_hidden_layers": 2, "num_nextn_predict_layers": 0, "block_post_layernorm_idx": [], "mhc_recur_norm": 2, "hidden_size": 64,
    "moe_intermediate_size": 34, "q_lora_rank": 33, "kv_lora_rank": 34, "swa_layers": [1], "sliding_window_list": [7],
    "max_position_embeddings": 96,
}  # fmt: skip


class Built(NamedTuple):
    checkpoint: Path
    cpu: Path
    npu: Path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("odd") / "checkpoint", OpenPanguConfig.from_dict(CONFIG), seed=5)


def build_pair(checkpoint: Path, folder: Path, weights: str, activations: str = "float32") -> Built:
    options = {"target": "ascend910b", "weights": weights, "activations": activations}
    stored = make_options(**options).stored_weights
    cpu_weights = "w8a16" if stored == "w8a24" else stored  # the same weights; the CPU rounds activations to 16 bits
    pangu_compile.build(checkpoint, folder / "cpu.pangu", weights=cpu_weights, max_context=160, opt_level=1)
    pangu_compile.build(checkpoint, folder / "npu.pangu", max_context=160, **options)
    return Built(checkpoint, folder / "cpu.pangu", folder / "npu.pangu")


@pytest.fixture(scope="session")
def builder() -> Callable[[Path, Path, str], Built]:
    return build_pair


@pytest.fixture(scope="session")
def built(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_pair(checkpoint, tmp_path_factory.mktemp("bf16"), "bf16")


@pytest.fixture(scope="session")
def built_bf16(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """bf16 activations as well."""
    return build_pair(checkpoint, tmp_path_factory.mktemp("activations"), "bf16", "bf16")


@pytest.fixture(scope="session")
def built_int8(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_pair(checkpoint, tmp_path_factory.mktemp("int8"), "int8")


@pytest.fixture(scope="session")
def built_w8a8(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Two layers, of one trace: both targets have the same integers in weights and in activations of 8 bits."""
    folder = tmp_path_factory.mktemp("w8a8")
    config = OpenPanguConfig.from_dict(W8A8)
    checkpoint = Checkpoint.open(write_random_checkpoint(folder / "checkpoint", config, seed=1))
    npu, cpu = (make_options(target=t, weights="w8a8", jobs=1, opt_level=1) for t in ("ascend910b", "cpu"))
    read = canonical_reader(checkpoint, config)
    module = traced_model(config, npu, Silent(), steps=())
    optimise(module, npu, Silent())
    plan, manifest = make_plan(module, PlanOptions(max_context=96)), model_entries(checkpoint, config, npu)
    with ArtifactWriter(folder / "cpu.pangu") as writer:
        emit(Job(plan, read, cpu, find_compiler(None), manifest, (), read.parts), writer, Silent())
    write_artifact(Request(module, read, read.parts, npu, 96, manifest), folder / "npu.pangu", Silent())
    return Built(checkpoint.folder, folder / "cpu.pangu", folder / "npu.pangu")
