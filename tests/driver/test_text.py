"""Prompts to ids and ids to text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pangu_compile.driver.text import TextStream, encode, load_tokenizer, parse_tokens
from pangu_compile.errors import UserError


def tokenizer() -> Tokenizer:
    """Byte-level: every byte is a token, so that characters arrive in pieces."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=["<start>", "<end>"]))
    return made


@pytest.mark.parametrize("text", ["", "plain words", "größer — 盘古 🐼 end", "é" * 50, " leading and trailing "])
def test_stream_gives_the_text_back(text: str) -> None:
    made = tokenizer()
    stream = TextStream(made)
    pieces = [stream.push(token) for token in made.encode(text).ids]
    assert "".join(pieces) + stream.finish() == text
    assert all("\ufffd" not in piece for piece in pieces)


def test_broken_bytes_do_not_stop_the_stream() -> None:
    made = tokenizer()
    ids = made.encode("ab").ids
    half = made.encode("盘").ids[:1]
    stream = TextStream(made)
    text = "".join(stream.push(token) for token in [*half, *ids, *half]) + stream.finish()
    assert "ab" in text


def test_leading_token(tmp_path: Path) -> None:
    made = tokenizer()
    plain = made.encode("x").ids
    assert encode(tmp_path, made, "x") == plain
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True, "bos_token": "<start>"}))
    assert encode(tmp_path, made, "x") == [made.token_to_id("<start>"), *plain]


def test_tokenizer_that_is_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_token_lists() -> None:
    assert parse_tokens("1, 2,3") == [1, 2, 3]
    with pytest.raises(UserError, match="'x'"):
        parse_tokens("1,x")
