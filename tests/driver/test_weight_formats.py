"""--weights bf16, int8 and int4 from a torch module to the numbers that the built library computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pangu_compile
from pangu_compile.driver.packing import packed_bytes, unpack
from pangu_compile.runtime import Model


class Net(nn.Module):
    """Two matrices; the first is also an embedding, so its type must stay."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(50, width) / 8)
        self.out = nn.Linear(width, rows, bias=False)

    def forward(self, tokens: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x + self.table[tokens]
        return x @ self.table.T, self.out(x)


@pytest.mark.parametrize(
    ("weights", "stored", "width", "rows"),
    [("bf16", "bf16", 64, 45), ("bf16", "bf16c", 384, 48), ("int8", "q8", 64, 45), ("int8", "q8i", 72, 48), ("int4", "q4", 64, 45)],
)
def test_built_library_computes_with_the_stored_numbers(weights: str, stored: str, width: int, rows: int, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    net, rng = Net(width, rows), np.random.default_rng(0)
    example = [torch.zeros(4, dtype=torch.int64), torch.zeros(4, width)]
    artifact = pangu_compile.compile_module(
        net, example, tmp_path / "net.pangu", dynamic=[{0: "N"}, {0: "N"}], max_sizes={"N": 64}, weights=weights, opt_level=1
    )
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest["weights"] == weights
    tensors = {e["format"]: e for e in manifest["tensors"].values() if e["logical_shape"] in ([rows, width], [50, width])}
    assert sorted(tensors) == sorted(["f32", stored])
    entry = tensors[stored]
    assert entry["logical_shape"] == [rows, width] and entry["nbytes"] == packed_bytes(stored, (rows, width))
    raw = np.fromfile(artifact.path / "weights.safetensors", np.uint8, entry["nbytes"], offset=entry["offset"])
    matrix = unpack(stored, raw, (rows, width)).astype(np.float64)
    tokens, x = rng.integers(0, 50, 7), rng.standard_normal((7, width)).astype(np.float32)
    with Model(artifact.path, threads=2) as model:
        tied, out = np.empty((7, 50), np.float32), np.empty((7, rows), np.float32)
        model.run_program("forward", [7], [tokens, x], [tied, out])
    table = net.table.detach().numpy().astype(np.float64)
    total = x + table[tokens]
    np.testing.assert_allclose(tied, total @ table.T, rtol=1e-5, atol=1e-5)
    if weights == "int4":  # its activations are 8-bit integers, 32 of which share a scale
        groups = total.astype(np.float32).reshape(7, 2, 32)
        scale = np.abs(groups).max(-1, keepdims=True) / np.float32(127)
        total = (np.rint(groups / scale) * scale).reshape(7, 64).astype(np.float64)
    np.testing.assert_allclose(out, total @ matrix.T, rtol=1e-4, atol=1e-4)
    assert np.abs(matrix - net.out.weight.detach().numpy()).max() < 0.02


class Two(nn.Module):
    """A product within, and one that is the result."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner, self.out = nn.Linear(600, 64, bias=False), nn.Linear(64, 45, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(nn.functional.silu(self.inner(x)))


def test_w8a16_is_int8_but_for_results(tmp_path: Path) -> None:
    """Rows of activations of 16 bits: nothing but the weights' own rounding is seen, of values as far apart as 1e4 in a row."""
    torch.set_num_threads(1)
    net, rng = Two(), np.random.default_rng(0)
    out = tmp_path / "net.pangu"
    pangu_compile.compile_module(
        net, [torch.zeros(4, 600)], out, dynamic=[{0: "N"}], max_sizes={"N": 64}, weights="w8a16", opt_level=1
    )
    tensors = {tuple(e["logical_shape"]): e for e in json.loads((out / "manifest.json").read_text())["tensors"].values()}
    assert {shape: e["format"] for shape, e in tensors.items()} == {(64, 600): "q8", (45, 64): "bf16"}
    stored = {}
    for shape, entry in tensors.items():
        raw = np.fromfile(out / "weights.safetensors", np.uint8, entry["nbytes"], offset=entry["offset"])
        stored[shape] = unpack(entry["format"], raw, shape).astype(np.float64)
    x = (rng.standard_normal((7, 600)) * 10.0 ** rng.uniform(-4, 0, 600)).astype(np.float32)
    y = np.empty((7, 45), np.float32)
    with Model(out, threads=2) as model:
        model.run_program("forward", [7], [x], [y])
    inner = x.astype(np.float64) @ stored[64, 600].T
    want = (inner / (1 + np.exp(-inner))) @ stored[45, 64].T
    assert 0 < np.abs(y - want).max() <= 1e-4 * np.abs(want).max()
