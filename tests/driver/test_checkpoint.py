"""Checkpoint folders: what is accepted, and the one line for everything else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pangu_compile.driver.checkpoint import INDEX, SINGLE, Checkpoint
from pangu_compile.errors import UserError


def shards(folder: Path) -> dict[str, str]:
    """Two shards with an index; returns its weight map."""
    save_file({"a": torch.ones(2, 3), "b": torch.zeros(4)}, folder / "model-1.safetensors")
    save_file({"c": torch.full((5,), 2.0, dtype=torch.bfloat16)}, folder / "model-2.safetensors")
    where = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    index(folder, where)
    (folder / "config.json").write_text('{"model_type": "openpangu_v2"}')
    return where


def index(folder: Path, where: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        Checkpoint.open(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shards_and_single_file(tmp_path: Path) -> None:
    shards(tmp_path)
    opened = Checkpoint.open(tmp_path)
    assert opened.shapes() == {"a": (2, 3), "b": (4,), "c": (5,)}
    np.testing.assert_array_equal(opened.read("c"), np.full(5, 2, np.float32))
    np.testing.assert_array_equal(opened.read_rows("a", 1, 2), np.ones((1, 3), np.float32))
    assert opened.nbytes() == 24 + 16 + 10
    save_file({"only": torch.ones(1)}, tmp_path / SINGLE)
    assert list(Checkpoint.open(tmp_path).tensors) == ["only"]


def test_config_alone_is_a_weightless_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert not Checkpoint.open(tmp_path, weights=False).has_weights
    assert "no weights" in refused(tmp_path)


def test_folder_problems(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refused(tmp_path / "file")
    assert "no config.json" in refused(tmp_path)


@pytest.mark.parametrize("text", ["{", "", "\x00", '{"a": NaN}', "[" * 100_000, "not json"])
def test_config_that_is_not_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert "config.json: is not JSON" in refused(tmp_path)


def test_config_that_is_not_an_object_or_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1]")
    assert "must be a JSON object" in refused(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff{}")
    assert "not UTF-8" in refused(tmp_path)


def test_index_problems(tmp_path: Path) -> None:
    where = shards(tmp_path)
    index(tmp_path, {**where, "d": "model-3.safetensors"})
    assert "shard model-3.safetensors (with tensor d) is missing" in refused(tmp_path)
    index(tmp_path, {**where, "d": "model-2.safetensors"})
    assert "tensor d is not in shard model-2.safetensors" in refused(tmp_path)
    index(tmp_path, {**where, "b": "model-2.safetensors"})
    assert "tensor b is not in shard model-2.safetensors" in refused(tmp_path)
    index(tmp_path, {"a": "model-1.safetensors", "c": "model-2.safetensors"})
    assert "tensor b is not listed" in refused(tmp_path)
    for bad in ([], None, {"a": 3}):
        index(tmp_path, bad)
        assert "no weight_map" in refused(tmp_path)
    index(tmp_path, {"a": "../model-1.safetensors"})
    assert "plain file name" in refused(tmp_path)
    index(tmp_path, where)
    save_file({"c": torch.ones(5), "a": torch.ones(2, 3)}, tmp_path / "model-2.safetensors")
    assert "tensor a is also in model-1.safetensors" in refused(tmp_path)


def test_wrong_dtype_and_truncated_data(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.ones(3, dtype=torch.int32)}, tmp_path / SINGLE)
    assert "tensor a has dtype I32" in refused(tmp_path)
    save_file({"a": torch.ones(3), "b": torch.ones(3)}, tmp_path / SINGLE)
    data = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(data[:-1])
    assert "truncated: tensor b" in refused(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"w": torch.tensor([1.0, 2.0, value])}, tmp_path / SINGLE)
    with pytest.raises(UserError, match=r"tensor w holds (NaN|infinity) \(first at element 2\)"):
        Checkpoint.open(tmp_path).read("w")


def test_missing_tensor(tmp_path: Path) -> None:
    shards(tmp_path)
    with pytest.raises(UserError, match="tensor z is missing"):
        Checkpoint.open(tmp_path).read("z")
