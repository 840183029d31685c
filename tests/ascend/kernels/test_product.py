"""Products with float32 results on the simulator against float64: every size of tail, and no dependence on the call."""

from __future__ import annotations

import ctypes
import json

import catalogue
import numpy as np
import pytest
from kernel_harness import Library, from_bf16, to_bf16

MODES = ("random", "equal", "large", "cancelling")
CORES = 20


def operands(name: str, tokens: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    rng, s = np.random.default_rng(tokens), catalogue.PRODUCT[name]
    x, w = rng.normal(size=(tokens, s["depth"])), rng.normal(size=(s["columns"], s["depth"]))
    if mode == "equal":
        x, w = np.full_like(x, 0.3), np.full_like(w, -1.7)
    elif mode == "large":
        x = rng.choice([-1e4, 1e4], size=x.shape)
    elif mode == "cancelling":  # the sum is far smaller than its terms
        x[:, 1::2] = -x[:, : s["depth"] // 2 * 2 : 2]
        w[:, 1::2] = w[:, : s["depth"] // 2 * 2 : 2]
    return to_bf16(x), to_bf16(w)


def check(library: Library, name: str, tokens: int, mode: str, cores: int = CORES) -> None:
    depth, columns = (catalogue.PRODUCT[name][key] for key in ("depth", "columns"))
    x, w = operands(name, tokens, mode)
    got = library.run(name, {"tokens": tokens}, cores=cores, x=x, w=w)["y"].reshape(tokens, columns)
    a, b = from_bf16(x), from_bf16(w)
    # Terms are exact in float32, and so every sum of `depth` of them is off by `depth` roundings at most.
    assert (np.abs(got - a @ b.T) <= depth * 2.0**-24 * (np.abs(a) @ np.abs(b).T)).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [*catalogue.TOKENS, 129])
@pytest.mark.parametrize("name", ["product_10", "product_one", "product_96"])
def test_small(library: Library, name: str, tokens: int, mode: str) -> None:
    check(library, name, tokens, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [1, 5, 130])
def test_odd(library: Library, tokens: int, mode: str) -> None:
    check(library, "product_odd", tokens, mode)


@pytest.mark.parametrize("cores", [1, 3, 24, 64])
def test_any_count_of_cores(library: Library, cores: int) -> None:
    check(library, "product_96", 17, "random", cores)
    check(library, "product_logits", 3, "random", cores)


@pytest.mark.parametrize("tokens", [1, 4])
def test_the_model_s_own_size(library: Library, tokens: int) -> None:
    check(library, "product_2560", tokens, "random")


def test_few_tokens_read_the_weights_once(library: Library) -> None:
    library.library.pangu_sim_clear_reports()
    check(library, "product_2560", 4, "random")
    library.library.pangu_sim_reports.restype = ctypes.c_char_p
    (report,) = json.loads(library.library.pangu_sim_reports())
    weights, rows = 2560 * 2560 * 2, 4 * 2560 * 2  # the rows of x: once for each core
    assert report["gm_read_bytes"] == weights + report["blocks"] * rows


@pytest.mark.parametrize("name", ["product_96", "product_odd"])
def test_a_row_does_not_depend_on_the_others(library: Library, name: str) -> None:
    """The same bits alone, among others, on another count of cores, and in another block of rows."""
    x, w = operands(name, 140, "random")
    columns = catalogue.PRODUCT[name]["columns"]
    whole = library.run(name, {"tokens": 140}, cores=CORES, x=x, w=w)["y"].reshape(140, columns)
    for row, cores in ((0, 20), (69, 7), (139, 24)):
        alone = library.run(name, {"tokens": 1}, cores=cores, x=x[row : row + 1], w=w)["y"]
        assert (alone.reshape(columns) == whole[row]).all()
