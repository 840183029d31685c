"""Weights by kind, caches against context."""

from __future__ import annotations

import dataclasses

import pytest

from pangu_compile.ir import Module, StateInfo
from pangu_compile.report.storage import cache_table, contexts, weight_kind, weight_table

from .conftest import CONFIG, C, E, F, H, V


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "head"),
        ("model.norm.weight", "norms"),
        ("model.merge_mhc_module.norm_gamma", "mhc"),
        ("model.layers.0.attn_mhc_module.phi.weight", "mhc"),
        ("model.layers.0.self_attn.q_a_layernorm.weight", "norms"),
        ("model.layers.0.self_attn.indexer.k_norm.weight", "indexer"),
        ("model.layers.0.self_attn.param_sink_k_pe", "attention"),
        ("model.layers.0.self_attn.o_conv.weight", "attention"),
        ("model.layers.0.mlp.gate.weight", "router"),
        ("model.layers.0.mlp.e_score_correction_bias", "router"),
        ("model.layers.0.mlp.gate_proj.weight", "dense_ffn"),
        ("model.layers.1.mlp.experts.gate_up_proj", "experts_routed"),
        ("model.layers.1.mlp.shared_experts.down_proj.weight", "experts_shared"),
        ("model.layers.2.self_attn.o_proj.weight", "mtp"),
        ("unheard.of", "other"),
    ],
)
def test_weight_kinds(name: str, kind: str) -> None:
    assert weight_kind(name, layers=2) == kind


def test_weight_table_adds_up(module: Module) -> None:
    table = weight_table(module, CONFIG.num_hidden_layers)
    kinds = {row["kind"]: row["parameters"] for row in table["by_kind"]}
    assert kinds == {
        "embedding": V * H, "attention": 2 * (9 * H + C * H), "experts_routed": 2 * E * 3 * F * H, "router": 2 * E * H,
        "mtp": H * H, "head": V * H,
    }  # fmt: skip
    assert table["by_dtype"] == [{"dtype": "f32", "parameters": sum(kinds.values()), "bytes": 4 * sum(kinds.values())}]


def test_caches_grow_with_context_and_rings_do_not() -> None:
    config = dataclasses.replace(CONFIG, dsa_layers=(0,), swa_layers=(1,), sliding_window=4)
    states = [
        StateInfo("layers.0.latent", "f32", C, None, 0), StateInfo("layers.0.index", "bf16", 6, None, 0),
        StateInfo("layers.1.latent", "f32", C, 5, 0), StateInfo("layers.1.conv_o", "f32", 7, 3, 0),
        StateInfo("mtp.1.latent", "f32", C, 9, 1),
    ]  # fmt: skip
    table = cache_table(config, {s.name: s for s in states}, [10, 1000])
    assert table["kinds"] == {
        "latent_dsa": [10 * C * 4, 1000 * C * 4], "latent_swa": [5 * C * 4] * 2, "index_keys": [10 * 12, 1000 * 12],
        "convolutions": [3 * 7 * 4] * 2, "mtp": [9 * C * 4] * 2,
    }  # fmt: skip
    assert table["total"][1] - table["total"][0] == 990 * table["bytes_per_token"]
    assert table["bytes_fixed"] == 5 * C * 4 + 84 + 9 * C * 4


def test_contexts_end_at_the_longest() -> None:
    assert contexts(524288)[0] == 1024 and contexts(524288)[-2:] == [262144, 524288]
    assert contexts(5000) == [1024, 2048, 4096, 5000]
    assert contexts(96) == [48, 96] and contexts(1) == [1, 1]
