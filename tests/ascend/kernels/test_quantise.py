"""Rows as int8, and sums of int8 products as float32, on the simulator: bit by bit what float32 arithmetic in numpy gives."""

from __future__ import annotations

import catalogue
import numpy as np
import pytest
from kernel_harness import Library

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("tokens", catalogue.TOKENS)
@pytest.mark.parametrize("name", list(catalogue.QUANTISE))
def test_quantise(library: Library, name: str, tokens: int) -> None:
    channels = catalogue.QUANTISE[name]["channels"]
    x = np.random.default_rng(tokens).normal(size=(tokens, channels)).astype(np.float32)
    x[0, ::3] = np.float32(127)  # the others are then their own integers, ties among them
    x[0, 1::3] = np.arange(len(x[0, 1::3])) % 20 + np.float32(0.5)
    if tokens > 1:
        x[-1] = 0
    got = library.run(name, {"tokens": tokens}, x=x)
    peak = np.abs(x).max(-1)
    inverse = np.float32(1) / np.maximum(peak, np.float32(1e-30)) * np.float32(127)
    assert (got["scale"] == peak * np.float32(1 / 127)).all()
    assert (got["y"].reshape(x.shape) == np.rint(x * inverse[:, None])).all()


@pytest.mark.parametrize("tokens", catalogue.TOKENS)
@pytest.mark.parametrize("name", list(catalogue.DEQUANTISE))
def test_dequantise(library: Library, name: str, tokens: int) -> None:
    rng, spec = np.random.default_rng(tokens), catalogue.DEQUANTISE[name]
    groups = spec.get("groups", 0)
    x = rng.integers(-(2**30), 2**30, (tokens, spec["columns"])).astype(np.int32)
    row_scale, scale = (rng.normal(size=n).astype(np.float32) for n in (tokens, (max(groups, 1), spec["columns"])))
    of_row, ends = np.zeros(tokens, np.int64), {}
    if groups:
        of_row = np.sort(rng.integers(0, groups, tokens))  # some groups have no rows
        ends = {"ends": np.searchsorted(of_row, np.arange(groups), side="right").astype(np.int32)}
    want = x.astype(np.float32) * row_scale[:, None] * scale[of_row]
    for cores in (1, 7, 40):
        got = library.run(name, {"tokens": tokens}, cores=cores, x=x, row_scale=row_scale, scale=scale, **ends)
        assert (got["y"].reshape(want.shape) == want).all()
