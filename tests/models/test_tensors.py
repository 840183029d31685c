"""Binding checkpoint tensors to parameters: names, layouts, copies, and what is refused."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from pangu_compile.errors import UserError  # noqa: E402
from pangu_compile.models.config import OpenPanguConfig  # noqa: E402
from pangu_compile.models.loading import load_reference, read_config  # noqa: E402
from pangu_compile.models.random_checkpoint import random_config, tiny_checkpoint, write_random_checkpoint  # noqa: E402
from pangu_compile.models.tensors import Stored, bind, parameter_shapes  # noqa: E402

from .test_config import FLASH  # noqa: E402

CONFIG = OpenPanguConfig(
    vocab_size=50, hidden_size=12, num_hidden_layers=2, num_nextn_predict_layers=1, num_attention_heads=3,
    q_lora_rank=7, kv_lora_rank=6, qk_nope_head_dim=5, qk_rope_head_dim=4, v_head_dim=3, intermediate_size=11,
    n_routed_experts=3, num_experts_per_tok=2, n_shared_experts=2, moe_intermediate_size=8, first_k_dense_replace=1,
    router_enable_expert_bias=True, dsa_layers=(0,), index_n_heads=2, index_head_dim=6, index_topk=5,
    swa_layers=(1, 2), sliding_window=6, param_sink_number=2, use_mome=True, use_mhc=True, mhc_num_stream=3,
    mhc_use_gamma=True, sandwich_norm=True, block_post_layernorm_idx=(1,),
)  # fmt: skip
TOKENS = torch.arange(30)[None] % 50
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def logits(folder: Path) -> Any:
    with torch.no_grad():
        model = load_reference(folder)
        g = model.hidden(TOKENS)
        return torch.cat([model.logits_from_hidden(g), *model.mtp_forward(TOKENS, g)], 1)


def test_names_and_shapes_are_the_specifications() -> None:
    """The list of the specification, written out for one configuration."""
    h, heads, n = 12, 3, 3
    mhc = {f"{m}.{t}": s for m in ("attn_mhc_module", "mlp_mhc_module")
           for t, s in {"phi.weight": (n * (n + 2), n * h), "branch_alpha": (3,), "branch_beta": (n * (n + 2),),
                        "norm_gamma": (n * h,)}.items()}  # fmt: skip
    attention = {
        "q_a_proj.weight": (7, h), "q_a_layernorm.weight": (7,), "q_b_proj.weight": (heads * 9, 7),
        "kv_a_proj_with_mqa.weight": (10, h), "kv_a_layernorm.weight": (6,), "kv_b_proj.weight": (heads * 8, 6),
        "o_proj.weight": (h, heads * 3), "qa_conv.weight": (7, 1, 3), "compresskv_conv.weight": (6, 1, 3),
        "o_conv.weight": (9, 1, 3), "param_sink_compressed_kv": (2, 6), "param_sink_k_pe": (2, 4),
    }  # fmt: skip
    indexer = {"indexer.wq_b.weight": (12, 7), "indexer.wk.weight": (6, h), "indexer.k_norm.weight": (6,),
               "indexer.weights_proj.weight": (2, h)}  # fmt: skip
    dense = {"gate_proj.weight": (11, h), "up_proj.weight": (11, h), "down_proj.weight": (h, 11)}
    moe = {"gate.weight": (3, h), "e_score_correction_bias": (3,), "experts.gate_up_proj": (3, 16, h),
           "experts.down_proj": (3, h, 8), "shared_experts.gate_proj.weight": (16, h),
           "shared_experts.up_proj.weight": (16, h), "shared_experts.down_proj.weight": (h, 16)}  # fmt: skip
    norms = ("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm")
    expected: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (50, h), "model.norm.weight": (h,), "lm_head.weight": (50, h),
        "model.merge_mhc_module.phi.weight": (n, n * h), "model.merge_mhc_module.branch_alpha_pre": (1,),
        "model.merge_mhc_module.branch_beta_pre": (n,), "model.merge_mhc_module.norm_gamma": (n * h,),
        "model.layers.1.block_post_layernorm.weight": (n * h,), "model.layers.2.enorm.weight": (h,),
        "model.layers.2.hnorm.weight": (h,), "model.layers.2.eh_proj.weight": (h, 2 * h),
        "model.layers.2.shared_head.norm.weight": (h,),
    }  # fmt: skip
    for i in range(3):
        layer = {f"{norm}.weight": (h,) for norm in norms} | (mhc if i < 2 else {})
        layer |= {f"self_attn.{t}": s for t, s in (attention | (indexer if i == 0 else {})).items()}
        layer |= {f"mlp.{t}": s for t, s in (moe if i else dense).items()}
        expected |= {f"model.layers.{i}.{t}": s for t, s in layer.items()}
    assert parameter_shapes(CONFIG) == expected
    assert parameter_shapes(CONFIG, mtp=False) == {t: s for t, s in expected.items() if "layers.2." not in t}


def test_switches_remove_tensors() -> None:
    off = replace(CONFIG, use_mhc=False, use_mome=False, param_sink_number=0, sandwich_norm=False, q_lora_rank=None,
                  router_enable_expert_bias=False, n_shared_experts=0, tie_word_embeddings=True)  # fmt: skip
    names = "\n".join(parameter_shapes(off))
    for part in ("mhc", "conv", "sink", "mlp_layernorm", "q_a_", "q_b_", "bias", "shared_experts", "lm_head"):
        assert part not in names
    shapes = parameter_shapes(off)
    assert shapes["model.layers.1.self_attn.q_proj.weight"] == (27, 12)
    assert shapes["model.layers.0.self_attn.indexer.wq_b.weight"] == (12, 12)
    assert shapes["model.layers.1.block_post_layernorm.weight"] == (12,)
    assert not any(t.endswith("norm_gamma") for t in parameter_shapes(replace(CONFIG, mhc_use_gamma=False)))


def test_flash_binds_quickly() -> None:
    config = OpenPanguConfig.from_dict(FLASH)
    begin = time.perf_counter()
    stored = {name: Stored(shape, "BF16") for name, shape in parameter_shapes(config).items()}
    bound = bind(config, stored)
    assert time.perf_counter() - begin < 15
    assert bound["model.layers.48.mlp.experts.gate_up_proj"].shape == (256, 2048, 2560)
    total = sum(torch.Size(b.shape).numel() for b in bound.values())
    assert 90e9 < total < 100e9  # "92B", and the MTP layers


@pytest.mark.parametrize("tied", [False, True])
def test_every_layout_gives_the_same_logits(tied: bool, tmp_path: Path) -> None:
    config = replace(CONFIG, tie_word_embeddings=tied)
    plain = logits(write_random_checkpoint(tmp_path / "plain", config, 1))
    styles: list[dict[str, Any]] = [
        {"stacked_experts": True}, {"shards": 3}, {"bias_in_gate": True}, {"copies": True},
        {"stacked_experts": True, "shards": 2, "bias_in_gate": True, "copies": True},
    ]  # fmt: skip
    for i, style in enumerate(styles):
        assert torch.equal(logits(write_random_checkpoint(tmp_path / str(i), config, 1, **style)), plain), style
    for dtype, limit in (("f32", 0.2), ("f16", 0.2)):
        other = logits(write_random_checkpoint(tmp_path / dtype, config, 1, dtype=dtype))
        assert 0 < (other - plain).abs().mean() < limit * plain.abs().max(), dtype
    mixed = logits(write_random_checkpoint(tmp_path / "mhc", config, 1, mhc_f32=True))
    assert not torch.equal(mixed, plain)


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    one, two = (write_random_checkpoint(tmp_path / d, CONFIG, 5, shards=2) for d in "ab")
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    assert all(p.read_bytes() == (two / p.name).read_bytes() for p in one.iterdir())


def test_index_norm_with_a_bias(tmp_path: Path) -> None:
    """A released config.json does not tell: the tensor's presence does."""
    folder = write_random_checkpoint(tmp_path, replace(CONFIG, index_k_norm_bias=True), 1)
    expected = logits(folder)
    raw = json.loads((folder / "config.json").read_text())
    del raw["index_k_norm_bias"]
    (folder / "config.json").write_text(json.dumps(raw))
    assert torch.equal(logits(folder), expected)
    assert read_config(folder) == replace(CONFIG, index_k_norm_bias=True)


@pytest.mark.parametrize("seed", range(6))
def test_tiny_checkpoint_is_what_its_seed_says(seed: int, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, seed)
    config = read_config(folder)
    assert config == random_config(seed)
    model = load_reference(folder)
    with torch.no_grad():
        spread = model(torch.arange(40)[None]).std()
    assert model.config == config and 0.3 < spread < 10


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path, CONFIG, 1, shards=2)
    first = load_file(folder / "model-00001-of-00002.safetensors")
    second = load_file(folder / "model-00002-of-00002.safetensors")
    name = next(iter(first))
    save_file({**second, name: first[name]}, folder / "model-00002-of-00002.safetensors")
    with pytest.raises(UserError, match=f"tensor {re.escape(name)} is also in another shard"):
        load_reference(folder)


def test_without_mtp(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path, CONFIG, 1, copies=True)
    model = load_reference(folder, mtp=False)
    assert model.config.num_nextn_predict_layers == 0 and len(model.model.layers) == 2
    with torch.no_grad():
        assert torch.equal(model(TOKENS), load_reference(folder)(TOKENS))
    available = {n: Stored(tuple(t.shape), "BF16") for n, t in load_file(folder / "model.safetensors").items()}
    bound = bind(CONFIG, available, mtp=False)
    assert set(bound.ignored) == {n for n in available if "layers.2." in n}
    trunk = {n: s for n, s in available.items() if "layers.2." not in n}
    assert list(bind(CONFIG, trunk, mtp=False)) == list(bound)


O_PROJ = "model.layers.0.self_attn.o_proj.weight"
BIAS = "model.layers.1.mlp.e_score_correction_bias"
EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"
STACKED = "model.layers.1.mlp.experts.down_proj"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(O_PROJ), (O_PROJ, "missing", "[12, 9]")),
        (lambda t: t.pop("lm_head.weight"), ("lm_head.weight", "missing", "tie_word_embeddings false")),
        (lambda t: t.pop(BIAS), (BIAS, "missing", "router_enable_expert_bias true")),
        (lambda t: t.pop(EXPERT), (EXPERT, "missing")),
        (lambda t: [t.pop(n) for n in list(t) if ".1.mlp.experts." in n], ("layers.1.mlp.experts.gate_up_proj",
                                                                        "experts.0.gate_proj.weight")),
        (lambda t: t.update(stranger=torch.zeros(1)), ("stranger", "not part of this model")),
        (lambda t: t.update({"model.layers.7.enorm.weight": torch.zeros(12)}), ("layers.7", "num_hidden_layers")),
        (lambda t: t.update({"model.layers.1.mlp.experts.3.up_proj.weight": torch.zeros(8, 12)}),
         ("experts.3.up_proj", "n_routed_experts 3")),
        (lambda t: t.update({O_PROJ: torch.zeros(9, 12)}), (O_PROJ, "shape [9, 12]", "[12, 9]")),
        (lambda t: t.update({EXPERT: torch.zeros(8, 13)}), (EXPERT, "shape [8, 13]", "[8, 12]")),
        (lambda t: t.update({O_PROJ: torch.zeros(12, 9, dtype=torch.float64)}), (O_PROJ, "dtype F64")),
        (lambda t: t.update({O_PROJ: torch.zeros(12, 9, dtype=torch.int8)}), (O_PROJ, "dtype I8")),
        (lambda t: t.update({BIAS.replace(".e_", ".gate.e_"): torch.zeros(3)}), ("mlp.gate.e_score", "also stored")),
        (lambda t: t.update({STACKED: torch.zeros(3, 12, 8)}), ("experts.0.down_proj.weight", "also stored", STACKED)),
        (lambda t: t.update({"model.layers.2.embed_tokens.weight": torch.zeros(50, 12)}),
         ("layers.2.embed_tokens.weight", "differs from model.embed_tokens.weight")),
        (lambda t: t.update({"model.layers.2.shared_head.head.weight": torch.zeros(50, 12)}),
         ("shared_head.head.weight", "differs from lm_head.weight")),
        (lambda t: t.update({"model.layers.2.embed_tokens.weight": torch.zeros(49, 12)}),
         ("layers.2.embed_tokens.weight", "shape")),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change: Change, words: tuple[str, ...], tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path, CONFIG, 1)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError) as caught:
        load_reference(folder)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tied_head_that_differs(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path, replace(CONFIG, tie_word_embeddings=True), 1, copies=True)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][3, 4] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        load_reference(folder)


def test_switched_off_features_are_explained(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path, replace(CONFIG, block_post_layernorm_idx=()), 1)
    raw = json.loads((folder / "config.json").read_text())
    for field in ("use_mhc", "use_mome", "mhc_use_gamma", "router_enable_expert_bias"):
        (folder / "config.json").write_text(json.dumps({**raw, field: False}))
        with pytest.raises(UserError, match=f"not part of this model; config.json has {field} false"):
            load_reference(folder)


def test_broken_folders(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path, CONFIG, 1, shards=2)
    index = folder / "model.safetensors.index.json"
    shard = folder / "model-00002-of-00002.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=re.escape(str(shard))):
        load_reference(folder)
    shard.unlink()
    with pytest.raises(UserError, match=r"shard model-00002-of-00002\.safetensors is missing"):
        load_reference(folder)
    for text in ("{", "[]", '{"weight_map": 3}', "{}"):
        index.write_text(text)
        with pytest.raises(UserError, match=re.escape(str(index))):
            load_reference(folder)
    index.unlink()
    with pytest.raises(UserError, match="no weights"):
        load_reference(folder)
