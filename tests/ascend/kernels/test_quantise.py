"""Rows as int8, and sums of int8 products as float32, on the simulator: bit by bit what float32 arithmetic in numpy gives."""

from __future__ import annotations

import catalogue
import numpy as np
import pytest
from kernel_harness import PEAKS, Library, digits_value

pytestmark = pytest.mark.filterwarnings("error")

ROUNDING = 2.0**-24  # of one float32 operation, at most


@pytest.mark.parametrize("tokens", catalogue.TOKENS)
@pytest.mark.parametrize("name", list(catalogue.QUANTISE))
def test_quantise(library: Library, name: str, tokens: int) -> None:
    """Among the rows: halves of all digits and the largest integers of either sign, one number everywhere, extremes, zeros."""
    rng, channels = np.random.default_rng(tokens), catalogue.QUANTISE[name]["channels"]
    digits = catalogue.QUANTISE[name].get("digits", 1)
    peak = np.float32(PEAKS[digits])
    x = rng.normal(size=(tokens, channels)).astype(np.float32)
    x[0, ::3] = np.where(np.arange(len(x[0, ::3])) % 2, peak, -peak)  # the others are then their own integers, ties among them
    x[0, 1::3] = np.arange(len(x[0, 1::3])) % 20 + np.float32(0.5)
    if digits > 1:
        half, many = 256 ** (digits - 1) // 2, len(x[0, 2::3])
        x[0, 2::3] = 2 * half * rng.integers(-127, 127, many) + half + 128 * rng.integers(0, 2, many) + rng.integers(-1, 2, many)
    if tokens > 4:
        x[1], x[2], x[3] = x[1] * np.float32(1e34), np.float32(-0.3), x[3] * np.float32(1e-25)
    if tokens > 5:
        x[4] = np.where(rng.integers(0, 2, channels), np.float32(1e4), np.float32(-1e4))
    if tokens > 1:
        x[-1] = 0
    got = library.run(name, {"tokens": tokens}, x=x)
    largest = np.abs(x).max(-1)
    inverse = np.float32(1) / np.maximum(largest, np.float32(1e-30)) * peak
    assert (got["scale"] == largest * (np.float32(1) / peak)).all()
    integers = digits_value(got["y"], x.shape, digits)
    assert (integers == np.rint(x * inverse[:, None])).all() and abs(np.abs(integers).max() - peak) <= 3 * ROUNDING * peak + 0.5
    scale = got["scale"].astype(np.float64)[:, None]
    # Half a step, and five roundings: of 1 / largest, of the inverse, of the quotient, of 1 / peak and of the scale.
    assert (np.abs(integers * scale - x) <= 0.5 * scale + 5.01 * ROUNDING * np.abs(x)).all()


@pytest.mark.parametrize("tokens", catalogue.TOKENS)
@pytest.mark.parametrize("name", list(catalogue.DEQUANTISE))
def test_dequantise(library: Library, name: str, tokens: int) -> None:
    rng, spec = np.random.default_rng(tokens), catalogue.DEQUANTISE[name]
    groups, digits = spec.get("groups", 0), spec.get("digits", 1)
    x = rng.integers(-(2**31) + 1, 2**31, (tokens, digits, spec["columns"])).astype(np.int32)
    x[0, :, 0] = 2**31 - 1
    row_scale, scale = (rng.normal(size=n).astype(np.float32) for n in (tokens, (max(groups, 1), spec["columns"])))
    of_row, ends = np.zeros(tokens, np.int64), {}
    if groups:
        of_row = np.sort(rng.integers(0, groups, tokens))  # some groups have no rows
        ends = {"ends": np.searchsorted(of_row, np.arange(groups), side="right").astype(np.int32)}
    sums, whole = x[:, 0].astype(np.float32), x[:, 0].astype(np.float64)
    for digit in range(1, digits):
        sums, whole = sums * np.float32(256) + x[:, digit].astype(np.float32), whole * 256 + x[:, digit]
    want = sums * row_scale[:, None] * scale[of_row]
    for cores in (1, 7, 40):
        y = library.run(name, {"tokens": tokens}, cores=cores, x=x, row_scale=row_scale, scale=scale, **ends)["y"]
        assert (y.reshape(want.shape) == want).all()
    assert np.abs(want - whole * row_scale[:, None] * scale[of_row]).max() <= (digits + 2.1) * ROUNDING * np.abs(want).max()
