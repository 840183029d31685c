"""The reference: against the specification in plain numpy, and one property at a time where an error is easy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402

from pangu_compile.models.config import OpenPanguConfig  # noqa: E402
from pangu_compile.models.layers import MoE, MoMEConv, sinkhorn  # noqa: E402
from pangu_compile.models.loading import empty_model, load_reference  # noqa: E402
from pangu_compile.models.random_checkpoint import random_config, random_tensors, write_random_checkpoint  # noqa: E402
from pangu_compile.models.reference import OpenPanguForCausalLM  # noqa: E402

from .naive import Naive  # noqa: E402

BASE = OpenPanguConfig(
    vocab_size=40, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, kv_lora_rank=6, qk_nope_head_dim=4,
    qk_rope_head_dim=4, v_head_dim=5, intermediate_size=10,
)  # fmt: skip
DSA = replace(BASE, dsa_layers=(0,), index_n_heads=2, index_head_dim=6, index_topk=5)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def make(config: OpenPanguConfig, seed: int = 0, dtype: Any = None) -> OpenPanguForCausalLM:
    dtype = dtype or torch.float64
    model = empty_model(config)
    state = {name: value.to(dtype) for name, value in random_tensors(config, seed).items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def run(model: OpenPanguForCausalLM, tokens: list[int]) -> Any:
    with torch.no_grad():
        return model(torch.tensor([tokens]))[0]


def random_tokens(config: OpenPanguConfig, count: int, seed: int = 0) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, config.vocab_size, count)]


@pytest.mark.parametrize("seed", range(24))
def test_agrees_with_the_specification(seed: int, tmp_path: Path) -> None:
    config = random_config(seed)
    write_random_checkpoint(tmp_path, config, seed, dtype="f32")
    weights = {n: t.double().numpy() for n, t in load_file(tmp_path / "model.safetensors").items()}
    naive = Naive(json.loads((tmp_path / "config.json").read_text()), weights)
    tokens = random_tokens(config, 18 if seed % 4 else 44, seed)
    model = load_reference(tmp_path)
    batch = torch.tensor([tokens])
    with torch.no_grad():
        g = model.hidden(batch)
        np.testing.assert_allclose(model.logits_from_hidden(g)[0], naive.logits(tokens), atol=1e-9, rtol=0)
        drafts = model.mtp_forward(batch, g)
    expected = naive.draft_logits(tokens)
    assert len(drafts) == len(expected) == config.num_nextn_predict_layers
    for j, (got, rows) in enumerate(zip(drafts, expected, strict=True), 1):
        assert list(rows) == list(range(j - 1, len(tokens) - 1))
        np.testing.assert_allclose(got[0], np.array(list(rows.values())), atol=1e-9, rtol=0)


def test_random_configs_cover_the_space() -> None:
    configs = [random_config(seed) for seed in range(40)]
    for field in ("use_mhc", "use_mome", "sandwich_norm", "tie_word_embeddings", "mhc_use_gamma", "norm_topk_prob",
                  "router_enable_expert_bias", "index_k_norm_bias", "n_routed_experts", "param_sink_number",
                  "block_post_layernorm_idx", "dsa_layers", "swa_layers", "sliding_window_list", "q_lora_rank",
                  "n_shared_experts", "first_k_dense_replace"):  # fmt: skip
        assert {bool(getattr(c, field)) for c in configs} == {True, False}, field
    assert {c.mhc_num_stream for c in configs if c.use_mhc} == {1, 2, 3, 4}
    assert {c.num_nextn_predict_layers for c in configs} == {0, 1, 2, 3}
    assert {c.conv_width for c in configs if c.use_mome} == {2, 3, 4}
    kinds = {(i >= c.num_hidden_layers, c.attention_kind(i)) for c in configs for i in range(c.num_layers)}
    assert kinds == {(mtp, kind) for mtp in (False, True) for kind in ("dsa", "swa", "dense")}


def test_batch_rows_are_independent_and_causal() -> None:
    config = random_config(11)
    model = make(config)
    tokens = torch.tensor([random_tokens(config, 50, 1), random_tokens(config, 50, 2)])
    with torch.no_grad():
        both, short = model(tokens), model(tokens[:, :23])
    torch.testing.assert_close(both[1], run(model, tokens[1].tolist()), atol=1e-10, rtol=0)
    torch.testing.assert_close(both[:, :23], short, atol=1e-10, rtol=0)


def test_one_token_and_other_dtypes() -> None:
    config = replace(random_config(9), max_position_embeddings=256)
    tokens = random_tokens(config, 40)
    exact = run(make(config), tokens)
    assert run(make(config), tokens[:1]).shape == (1, config.vocab_size)
    single = run(make(config, dtype=torch.float32), tokens).double()
    assert (single - exact).abs().max() < 1e-4 * exact.abs().max()
    assert run(make(config, dtype=torch.bfloat16), tokens).isfinite().all()


def test_every_parameter_gets_a_gradient() -> None:
    config = random_config(11)
    model = make(config).train()
    model.requires_grad_(True)
    tokens = torch.tensor([random_tokens(config, 60, s) for s in range(2)])
    g = model.hidden(tokens)
    loss = model.logits_from_hidden(g).logsumexp(-1).mean()
    for logits in model.mtp_forward(tokens, g):
        loss = loss + logits.logsumexp(-1).mean()
    loss.backward()
    untouched = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # top-k choices have no gradient
    assert all(".indexer." in n or "e_score_correction_bias" in n for n in untouched), untouched


def test_sinkhorn_ends_with_the_columns() -> None:
    raw = torch.tensor([[0.3, -1.0], [2.0, 0.5]], dtype=torch.float64)
    once = sinkhorn(raw, 1)
    rows = torch.exp(raw) / torch.exp(raw).sum(1, keepdim=True) + 1e-6
    torch.testing.assert_close(once, rows / (rows.sum(0, keepdim=True) + 1e-6))
    assert not torch.allclose(once.sum(1), torch.ones(2, dtype=torch.float64), atol=1e-2)
    many = sinkhorn(raw, 20)
    torch.testing.assert_close(many.sum(0), torch.ones(2, dtype=torch.float64), atol=2e-6, rtol=0)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_convolution_is_silent_at_the_start(width: int) -> None:
    conv = MoMEConv(3, width).double()
    torch.nn.init.normal_(conv.weight)
    x = torch.randn(1, 7, 3, dtype=torch.float64)
    with torch.no_grad():
        y = conv(x)
        for tokens in range(1, width):
            assert conv(x[:, :tokens]).eq(0).all()
    assert y[:, : width - 1].eq(0).all()
    last = sum(conv.weight[:, 0, j] * x[0, 6 - (width - 1) + j] for j in range(width))
    torch.testing.assert_close(y[0, 6], last)


def test_router_picks_biased_and_weighs_unbiased() -> None:
    config = replace(BASE, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=3, norm_topk_prob=False,
                     router_enable_expert_bias=True, routed_scaling_factor=2.0)  # fmt: skip
    moe = MoE(config).double()
    x = torch.ones(1, config.hidden_size, dtype=torch.float64)
    with torch.no_grad():
        moe.gate.weight.copy_(torch.tensor([0.0, 0.1, 0.0, -0.3])[:, None].expand(4, config.hidden_size))
        moe.e_score_correction_bias.copy_(torch.tensor([0.0, 0.0, 0.0, 5.0]))
        chosen, weights = moe.route(x)
        assert chosen.tolist() == [[3, 1]]
        expected = 2 * torch.sigmoid(torch.tensor([-0.3, 0.1], dtype=torch.float64) * config.hidden_size)
        torch.testing.assert_close(weights[0], expected, atol=1e-6, rtol=0)
        moe.e_score_correction_bias.zero_()
        assert moe.route(x)[0].tolist() == [[1, 0]]  # 0 and 2 are equal: the lower one


def last_row_changes(model: OpenPanguForCausalLM, tokens: list[int], at: int) -> bool:
    other = list(tokens)
    other[at] = (other[at] + 1) % model.config.vocab_size
    return bool((run(model, tokens)[-1] - run(model, other)[-1]).abs().max() > 1e-9)


@pytest.mark.parametrize("window", [1, 4, 9])
def test_window_counts_the_query_itself(window: int) -> None:
    config = replace(BASE, swa_layers=(0,), sliding_window=window, param_sink_number=2)
    model, tokens = make(config), random_tokens(BASE, 10)
    seen = [9 - at for at in range(10) if last_row_changes(model, tokens, at)]
    assert sorted(seen) == list(range(window))


def test_indexer_ties_go_to_the_oldest_keys() -> None:
    model, tokens = make(DSA), random_tokens(BASE, 12)
    model.model.layers[0].self_attn.indexer.weights_proj.weight.data.zero_()
    # every score is 0: keys 0..4 stay visible; token 11 is the last row's own input
    assert [at for at in range(12) if last_row_changes(model, tokens, at)] == [0, 1, 2, 3, 4, 11]


def test_indexer_is_idle_while_keys_are_few() -> None:
    tokens = random_tokens(BASE, 9)
    dense = make(BASE)
    sparse = make(DSA, seed=3)
    sparse.load_state_dict(dense.state_dict(), strict=False)
    expected, got = run(dense, tokens), run(sparse, tokens)
    torch.testing.assert_close(got[:5], expected[:5], atol=1e-12, rtol=0)
    assert (got[5:] - expected[5:]).abs().max() > 1e-6


def test_sinks_are_not_rotated_and_always_seen() -> None:
    """One token repeated, sinks alone besides a window of 1: every row sees the same, if keys do not rotate."""
    config = replace(BASE, swa_layers=(0,), sliding_window=1, param_sink_number=3)
    attention = make(config).model.layers[0].self_attn
    u = torch.randn(1, 1, 12, dtype=torch.float64).expand(1, 6, 12)
    with torch.no_grad():
        rotated = attention(u, torch.arange(6))
        assert (rotated[0, 0] - rotated[0, 5]).abs().max() > 1e-6  # q rotates, the sinks' keys stay
        attention.param_sink_k_pe.zero_()
        still = attention(u, torch.arange(6))
        torch.testing.assert_close(still[0, 5], still[0, 0], atol=1e-12, rtol=0)
        attention.param_sink_compressed_kv.mul_(-1)
        assert (attention(u, torch.arange(6)) - still).abs().max(-1)[0].min() > 1e-6


def test_draft_rows_read_the_next_token_and_no_further() -> None:
    config = replace(BASE, num_nextn_predict_layers=3, sliding_window=50, use_mome=True)
    model, tokens = make(config), random_tokens(BASE, 12)

    def drafts(row: list[int]) -> list[Any]:
        batch = torch.tensor([row])
        with torch.no_grad():
            return [x[0] for x in model.mtp_forward(batch, model.hidden(batch))]

    before = drafts(tokens)
    assert [len(x) for x in before] == [11, 10, 9]
    changed = list(tokens)
    changed[7] = (changed[7] + 1) % 40
    for j, (x, y) in enumerate(zip(before, drafts(changed), strict=True), 1):
        rows = [i + j - 1 for i in range(len(x)) if (x[i] - y[i]).abs().max() > 1e-9]
        assert rows == list(range(6, 11)), j  # row p reads token p + 1
