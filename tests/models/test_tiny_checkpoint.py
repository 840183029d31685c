"""The shipped checkpoint: format, size, tokenizer, and what it is claimed to reach on held-out text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors import safe_open  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from pangu_compile.models.config import OpenPanguConfig  # noqa: E402
from pangu_compile.models.train import fast  # noqa: E402
from pangu_compile.models.train.evaluate import load_model, sample, score, windows  # noqa: E402

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "models" / "openpangu-2.0-tiny"
HELD_OUT = (ROOT / "tests" / "data" / "held_out.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def model() -> Any:
    torch.set_num_threads(1)
    return load_model(FOLDER)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def test_size_and_dtype() -> None:
    total = sum((FOLDER / name).stat().st_size for name in ("model.safetensors", "tokenizer.json"))
    assert total <= 10_000_000
    with safe_open(str(FOLDER / "model.safetensors"), framework="pt") as tensors:
        names = list(tensors.keys())
        assert {tensors.get_slice(n).get_dtype() for n in names} == {"BF16"}
    assert "model.layers.2.mlp.experts.15.down_proj.weight" in names
    assert "model.layers.8.eh_proj.weight" in names


def test_has_every_mechanism() -> None:
    c = OpenPanguConfig.from_file(FOLDER)
    assert c.num_hidden_layers == 6 and c.num_nextn_predict_layers == 3 and c.first_k_dense_replace == 2
    assert c.dsa_layers == (0, 3) and set(c.swa_layers) == {1, 2, 4, 5, 6, 7, 8}
    assert c.n_routed_experts == 16 and c.num_experts_per_tok == 4 and c.n_shared_experts == 1
    assert c.use_mhc and c.mhc_num_stream == 4 and c.mhc_recur_norm == 20 and c.mhc_use_gamma
    assert c.use_mome and c.param_sink_number and c.sandwich_norm and c.router_enable_expert_bias
    assert c.block_post_layernorm_idx and c.max_position_embeddings >= 1024
    assert c.index_topk < 300 and all(c.window(i) < 300 for i in c.swa_layers)


def test_tokenizer(tokenizer: Tokenizer) -> None:
    config = json.loads((FOLDER / "tokenizer_config.json").read_text())
    assert tokenizer.token_to_id(config["bos_token"]) == 0
    assert tokenizer.token_to_id(config["eos_token"]) == 2
    assert tokenizer.get_vocab_size() == OpenPanguConfig.from_file(FOLDER).vocab_size
    for text in (HELD_OUT, "naïve Ünïcode ☃ 漢字\t\x00\r\n  two  spaces "):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("<|message_start|>user\nhi<|message_end|>").ids[0] == 1


def test_windows_score_every_token_once() -> None:
    ids = list(range(10, 110))
    scored = [t for row, first in windows(ids, 0, window=17, stride=8) for t in row[first:]]
    assert scored == ids
    assert all(row[0] == 0 and len(row) <= 17 for row, _ in windows(ids, 0, window=17, stride=8))


def test_held_out_figures(model: Any, tokenizer: Tokenizer) -> None:
    result = score(model, HELD_OUT, tokenizer)
    assert result["acceptance"][0] >= 0.60
    assert min(result["acceptance"]) >= 0.50
    assert 0.8 < result["bits_per_byte"] < 2.0


def test_greedy_sample_is_text(model: Any, tokenizer: Tokenizer) -> None:
    text = sample(model, tokenizer, "In the beginning", 24, 0.0)
    assert text.startswith("In the beginning") and text.isascii() and " the " in text


def test_training_forward_is_the_reference(model: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's own arrangement of the forward computes what the reference computes, both sparsities in use."""
    monkeypatch.setattr(fast, "COMPILE", False)
    monkeypatch.setattr(fast, "DTYPE", torch.float32)
    config = json.loads((FOLDER / "config.json").read_text())
    trainer = fast.FastModel(config, dict(model.state_dict()))
    ids = torch.tensor([[0, *tokenizer.encode(HELD_OUT).ids[:384]]])
    length = ids.shape[1] - 1
    with torch.no_grad():
        g = model.hidden(ids)
        drafts = model.mtp_forward(ids, g)
        h, _ = trainer.trunk(ids[:, :length], config["index_topk"], {})
        torch.testing.assert_close(trainer.logits(h), model.logits_from_hidden(g)[:, :-1], atol=1e-3, rtol=0)
        for j, expected in enumerate(drafts, 1):
            if j > 1:
                h = torch.nn.functional.pad(h, (0, 0, 1, 0))[:, :length]
            h = trainer.draft(j, ids[:, 1:], h, {})
            logits = trainer.logits(h, config["num_hidden_layers"] + j - 1)[:, j - 1 :]
            torch.testing.assert_close(logits, expected, atol=1e-3, rtol=0)
