"""config.json: the released one is read, every wrong field is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from pangu_compile.errors import UserError
from pangu_compile.models.config import OpenPanguConfig
from pangu_compile.models.random_checkpoint import random_config

DSA = list(range(0, 46, 3))
SWA = [i for i in range(49) if i not in DSA]
FLASH: dict[str, Any] = {
    "architectures": ["OpenPanguV2ForCausalLM"], "model_type": "openpangu_v2", "hidden_size": 2560,
    "num_hidden_layers": 46, "num_nextn_predict_layers": 3, "intermediate_size": 9216, "moe_intermediate_size": 1024,
    "num_attention_heads": 48, "num_key_value_heads": 48, "q_lora_rank": 1024, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "rope_theta": 6400000.0,
    "rope_interleave": False, "vocab_size": 151552, "max_position_embeddings": 524288, "rms_norm_eps": 1e-05,
    "hidden_act": "silu", "tie_word_embeddings": False, "n_routed_experts": 256, "num_experts_per_tok": 8,
    "n_shared_experts": 1, "first_k_dense_replace": 2, "norm_topk_prob": True, "routed_scaling_factor": 2.5,
    "router_enable_expert_bias": True, "index_n_heads": 24, "index_head_dim": 128, "index_topk": 2048,
    "param_sink_number": 128, "use_mome": True, "router_sliding_window": 3, "use_mhc": True, "mhc_num_stream": 4,
    "mhc_recur_norm": 20, "mhc_use_gamma": True, "sandwich_norm": True,
    "block_post_layernorm_idx": [4, 9, 14, 19, 24, 29, 34, 39, 44], "dsa_layers": DSA, "swa_layers": SWA,
    "sliding_window": 512, "sliding_window_list": [512] * 30 + [2048] * 3, "torch_dtype": "bfloat16",
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def test_flash() -> None:
    c = OpenPanguConfig.from_dict(FLASH)
    assert c.num_layers == 49 and c.conv_width == 3 and c.eos_token_id == (2,)
    assert [c.attention_kind(i) for i in (0, 1, 2, 3, 45, 46, 48)] == ["dsa", "swa", "swa", "dsa", "dsa", "swa", "swa"]
    assert [c.window(i) for i in (0, 1, 44, 46, 48)] == [0, 512, 512, 2048, 2048]
    assert [c.is_moe(i) for i in (0, 1, 2, 45, 46)] == [False, False, True, True, True]


def test_round_trip() -> None:
    for config in [OpenPanguConfig.from_dict(FLASH), *(random_config(seed) for seed in range(60))]:
        assert OpenPanguConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_what_may_be_absent() -> None:
    needed = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "kv_lora_rank",
              "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "intermediate_size")  # fmt: skip
    c = OpenPanguConfig.from_dict({name: FLASH[name] for name in needed})
    assert c.attention_kind(0) == "dense" and not c.use_mhc and not c.is_moe(45) and c.num_layers == 46
    for name in needed:
        with pytest.raises(UserError, match=f"'{name}' is missing"):
            OpenPanguConfig.from_dict({n: FLASH[n] for n in needed if n != name})


def test_neutral_fields() -> None:
    extra = {"transformers_version": "4.57", "use_cache": True, "initializer_range": 0.02, "auto_map": {"a": "b"},
             "attention_bias": False, "attention_dropout": 0.0, "rope_scaling": None, "dtype": "bfloat16",
             "_name_or_path": "x"}  # fmt: skip
    assert OpenPanguConfig.from_dict({**FLASH, **extra}) == OpenPanguConfig.from_dict(FLASH)
    assert OpenPanguConfig.from_dict({**FLASH, "eos_token_id": [2, 5]}).eos_token_id == (2, 5)
    assert OpenPanguConfig.from_dict({**FLASH, "eos_token_id": None}).eos_token_id == ()


def test_windows_without_a_list() -> None:
    c = OpenPanguConfig.from_dict({**FLASH, "sliding_window_list": None})
    assert c.window(1) == c.window(48) == 512
    listed = {**FLASH, "swa_layers": [5, 1, 46], "sliding_window_list": [7, 8, 9]}
    c = OpenPanguConfig.from_dict(listed)
    assert [c.window(i) for i in (1, 5, 46, 47)] == [8, 7, 9, 512]  # by position in swa_layers; 47 is listed nowhere
    c = OpenPanguConfig.from_dict({**listed, "sliding_window": None})
    assert c.attention_kind(2) == c.attention_kind(47) == "dense"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "llama"), ("secret_switch", 1), ("hidden_size", 0), ("hidden_size", -5), ("hidden_size", 2.5),
        ("hidden_size", "2560"), ("hidden_size", None), ("hidden_size", True), ("use_mhc", 1), ("use_mome", "yes"),
        ("rope_theta", 0), ("rope_theta", float("nan")), ("rope_theta", float("inf")), ("rope_theta", 10**400),
        ("rms_norm_eps", "small"), ("hidden_act", "gelu"), ("rope_interleave", True), ("attention_bias", True),
        ("rope_scaling", {"type": "yarn"}), ("num_key_value_heads", 8), ("qk_rope_head_dim", 63),
        ("index_head_dim", 32), ("index_topk", 0), ("router_sliding_window", 1), ("num_experts_per_tok", 257),
        ("num_experts_per_tok", 0), ("moe_intermediate_size", 0), ("q_lora_rank", 0), ("mhc_num_stream", 0),
        ("mhc_recur_norm", 0), ("dsa_layers", [0, 0]), ("dsa_layers", [49]), ("dsa_layers", [-1]), ("dsa_layers", 3),
        ("dsa_layers", [1.5]), ("swa_layers", [*SWA[:-1], 0]), ("sliding_window_list", [512] * 32),
        ("sliding_window_list", [0] * 33), ("block_post_layernorm_idx", [46]), ("first_k_dense_replace", 47),
        ("eos_token_id", 151552), ("eos_token_id", -1), ("eos_token_id", "</s>"),
    ],
)  # fmt: skip
def test_wrong_fields_are_named(field: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        OpenPanguConfig.from_dict({**FLASH, field: value}, "here/config.json")
    message = str(caught.value)
    assert message.startswith(f"here/config.json: field '{field}' ") and "\n" not in message


def test_missing_window() -> None:
    with pytest.raises(UserError, match="sliding_window"):
        OpenPanguConfig.from_dict({**FLASH, "sliding_window": None, "sliding_window_list": None})


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        OpenPanguConfig.from_file(tmp_path)
    file.write_text(json.dumps(FLASH))
    assert OpenPanguConfig.from_file(tmp_path) == OpenPanguConfig.from_file(file) == OpenPanguConfig.from_dict(FLASH)
    for text in ("{broken", "[1, 2]", "[" * 100_000, ""):
        file.write_text(text)
        with pytest.raises(UserError, match=r"config\.json"):
            OpenPanguConfig.from_file(file)
    file.write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match=r"config\.json"):
        OpenPanguConfig.from_file(file)
    file.write_text(json.dumps({**FLASH, "hidden_size": "x"}))
    with pytest.raises(UserError, match=r"config\.json.*hidden_size"):
        OpenPanguConfig.from_file(file)
