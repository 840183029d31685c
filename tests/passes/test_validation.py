"""Translation validation of the whole table on models that together turn every switch of the configuration on and off."""

from __future__ import annotations

import functools

import pytest

from pangu_compile.ir import Module, parse_graph, print_graph
from pangu_compile.models.config import OpenPanguConfig
from pangu_compile.models.programs import build_programs
from pangu_compile.models.random_checkpoint import random_config
from pangu_compile.passes import run_passes
from pangu_compile.trace import trace_programs

SEEDS = (2, 3, 19, 28)
FUSED = {"dsa_attention", "swa_attention", "dense_attention"}


def switches(config: OpenPanguConfig) -> dict[str, bool]:
    c = config
    kinds = [c.attention_kind(i) for i in range(c.num_hidden_layers)]
    return {
        "mhc": c.use_mhc, "gamma": c.use_mhc and c.mhc_use_gamma, "several streams": c.use_mhc and c.mhc_num_stream > 1,
        "mome": c.use_mome, "sinks": c.param_sink_number > 0, "sandwich": c.sandwich_norm, "q_lora": c.q_lora_rank is not None,
        "block_post": bool(c.block_post_layernorm_idx), "tied": c.tie_word_embeddings, "mtp": c.num_nextn_predict_layers > 0,
        "dsa": "dsa" in kinds, "swa": "swa" in kinds, "dense": "dense" in kinds, "moe": any(map(c.is_moe, range(len(kinds)))),
        "shared": c.n_shared_experts > 0, "bias": c.router_enable_expert_bias, "norm_topk": c.norm_topk_prob,
    }  # fmt: skip


def test_the_configurations_cover_every_switch():
    seen = [switches(random_config(seed)) for seed in SEEDS]
    for name in seen[0]:
        assert {s[name] for s in seen} == {True, False}, name


@functools.cache
def optimised(seed: int) -> Module:
    return run_passes(trace_programs(build_programs(random_config(seed))), validate=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_pass_changes_the_meaning_and_every_layer_is_fused(seed):
    module, config = optimised(seed), random_config(seed)
    calls = [n for n in module.programs["step"].graph.nodes if n.op == "call"]
    assert len(calls) == config.num_hidden_layers
    for index, call in enumerate(calls):
        made = [n.op for n in module.functions[call.attrs["function"]].nodes]
        assert [op for op in made if op in FUSED] == [f"{config.attention_kind(index)}_attention"]
        assert made.count("moe_ffn" if config.is_moe(index) else "dense_ffn") == 1
        assert len(made) <= 12 and not {"softmax", "topk", "sort", "put_rows"} & set(made)


@pytest.mark.parametrize("seed", [s for s in SEEDS if random_config(s).num_nextn_predict_layers])
def test_a_step_with_drafts_is_verified_by_one_operator(seed):
    module, heads = optimised(seed), random_config(seed).num_nextn_predict_layers
    for program, draft, verify in (("speculate", "lm_head_argmax", "mtp_verify"),
                                   ("speculate_sampled", "sample_token", "mtp_verify_sampled")):  # fmt: skip
        made = [n.op for n in module.programs[program].graph.nodes]
        assert (made.count(draft), made.count(verify)) == (heads, 1)
        assert not {"argmax", "softmax", "sort", "cumsum", "take_along"} & set(made)


@pytest.mark.parametrize("seed", SEEDS[1:])
def test_the_optimised_text_round_trips(seed):
    for graph in optimised(seed).graphs():
        text = print_graph(graph)
        if "call(" not in text:
            assert print_graph(parse_graph(text)) == text
