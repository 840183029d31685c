"""The least bytes of a decode step, worked out by hand from configurations."""

from __future__ import annotations

import dataclasses

import pytest

from pangu_compile.ir import DType, Folded, Module, StateInfo, TensorType, new_graph
from pangu_compile.report.cost import program_work, total_work
from pangu_compile.report.minimum import decode_minimum, stored_as

from .conftest import CONFIG, C, E, F, H, K, V, trunk_shapes


def f32(name: str) -> DType:
    return DType.f32


def test_weights_once_experts_chosen_one_embedding_row(module: Module) -> None:
    least = decode_minimum(CONFIG, trunk_shapes(module), module.states, stored_as(module), 16)
    layer = 9 * H + C * H + E * H + K * 3 * F * H
    assert least.parameters == H + V * H + 2 * layer
    assert least.weights == 4 * least.parameters
    assert least.caches == 2 * (16 + 1) * C * 4


def test_tied_embedding_is_read_whole(module: Module) -> None:
    tied = dataclasses.replace(CONFIG, tie_word_embeddings=True)
    shapes = {n: s for n, s in trunk_shapes(module).items() if n != "lm_head.weight"}
    untied = decode_minimum(CONFIG, trunk_shapes(module), module.states, f32, 16)
    assert decode_minimum(tied, shapes, module.states, f32, 16).weights == untied.weights - H * 4


@pytest.mark.parametrize(
    ("change", "context", "expected"),
    [
        ({"swa_layers": (0, 1), "sliding_window": 8}, 100, 2 * 8 * C * 4),  # 7 old rows and the new one
        ({"swa_layers": (0, 1), "sliding_window": 8}, 3, 2 * (3 + 1) * C * 4),
        ({"dsa_layers": (0, 1), "index_topk": 10, "index_head_dim": 6, "index_n_heads": 1}, 100,
         2 * ((10 + 1) * C + (100 + 1) * 6) * 4),
        ({"dsa_layers": (0, 1), "index_topk": 10, "index_head_dim": 6, "index_n_heads": 1}, 4,
         2 * ((5 + 1) * C + (4 + 1) * 6) * 4),
        ({"use_mome": True, "q_lora_rank": 7}, 4, 2 * ((4 + 1) * C + 3 * (7 + 3 + 1)) * 4),
    ],
)  # fmt: skip
def test_caches_by_attention_kind(change: dict[str, object], context: int, expected: int) -> None:
    config = dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type]
    assert decode_minimum(config, {}, {}, f32, context).caches == expected


def test_stored_formats_count(module: Module) -> None:
    name = "model.layers.0.mlp.experts.down_proj"
    module.weights[name] = TensorType(DType.q8, module.weights[name].shape)
    module.states["layers.0.latent"] = StateInfo("layers.0.latent", "bf16", C, None, 0)
    least = decode_minimum(CONFIG, trunk_shapes(module), module.states, stored_as(module), 16)
    whole = decode_minimum(CONFIG, trunk_shapes(module), module.states, f32, 16)
    assert whole.weights - least.weights == K * H * F * 4 - TensorType(DType.q8, (K, H, F)).nbytes
    assert least.caches == (17 * C) * (4 + 2)


def test_a_folded_parameter_counts_in_the_format_of_what_it_became(module: Module) -> None:
    graph, _ = new_graph("fold")
    module.folded["folded.0"] = Folded(graph, ["model.gone"])
    module.weights["folded.0"] = TensorType(DType.bf16, (3,))
    stored = stored_as(module)
    assert stored("model.gone") is DType.bf16 and stored("unheard.of") is DType.f32


def test_the_step_never_moves_less(module: Module) -> None:
    """A dense cache that the toy graph appends to by copying: more than the minimum, but all of the minimum."""
    for context in (1, 16, 1000):
        least = decode_minimum(CONFIG, trunk_shapes(module), module.states, stored_as(module), context)
        work = total_work(program_work(module, module.programs["step"], {"T": 1, "S": context, "M": 1}))
        assert work.bytes > least.weights - 2 * 9 * H * 4  # q_proj is not in the toy's graph
