"""Products with float32 results on the simulator against float64: every size of tail, and no dependence on the call."""

from __future__ import annotations

import ctypes
import json

import catalogue
import numpy as np
import pytest
from kernel_harness import Library, from_bf16, from_split, to_bf16, to_split

MODES = ("random", "equal", "large", "cancelling")
CORES = 20


def is_split(name: str) -> bool:
    return bool(catalogue.PRODUCT[name].get("x_type") == "split")


def rows(name: str, x: np.ndarray) -> np.ndarray:
    return to_split(x) if is_split(name) else to_bf16(x)


def values(name: str, x: np.ndarray) -> np.ndarray:
    return from_split(x) if is_split(name) else from_bf16(x)


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
    return rows(name, x), to_bf16(w)


def near(name: str, got: np.ndarray, x: np.ndarray, w: np.ndarray) -> bool:
    """y = x w^T: terms are exact in float32, and so every sum of them is off by as many roundings as it has terms at most.

    High and low parts are terms of their own."""
    a, b = values(name, x), from_bf16(w)
    terms = x.shape[-1]
    bound = terms * 2.0**-24 * (np.abs(a) * (1 + 2.0**-7)) @ np.abs(b).swapaxes(-1, -2)
    return bool((np.abs(got - a @ b.swapaxes(-1, -2)) <= bound).all())


def check(library: Library, name: str, tokens: int, mode: str, cores: int = CORES) -> None:
    x, w = operands(name, tokens, mode)
    got = library.run(name, {"tokens": tokens}, cores=cores, x=x, w=w)["y"].reshape(tokens, -1)
    assert near(name, got, x, w)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [*catalogue.TOKENS, 129])
@pytest.mark.parametrize("name", ["product_10", "product_one", "product_96", "product_split", "product_split_one"])
def test_small(library: Library, name: str, tokens: int, mode: str) -> None:
    check(library, name, tokens, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [1, 5, 130])
@pytest.mark.parametrize("name", ["product_odd", "product_split_odd"])
def test_odd(library: Library, name: str, tokens: int, mode: str) -> None:
    check(library, name, tokens, mode)


@pytest.mark.parametrize("cores", [1, 7, 24])
@pytest.mark.parametrize("tokens", [1, 5, 130])
@pytest.mark.parametrize("name", ["product_heads", "product_absorb", "product_absorb_wide", "product_values"])
def test_heads(library: Library, name: str, tokens: int, cores: int) -> None:
    """Each head's own weights, contiguous or as parts of larger tensors."""
    s, rng = catalogue.PRODUCT[name], np.random.default_rng(tokens)
    heads, depth, columns = s["heads"], s["depth"], s["columns"]
    matrix = (depth, columns) if s.get("by_depth") else (columns, depth)
    x, w = to_split(rng.normal(size=(heads, tokens, depth))), to_bf16(rng.normal(size=(heads, *matrix)))
    row, head, low = s.get("x_strides", (heads * 2 * depth, 2 * depth, depth))
    x_memory = np.full((tokens, row), 0x7FC0, np.uint16)  # NaN where nothing is to be read
    for h in range(heads):
        x_memory[:, h * head : h * head + depth], x_memory[:, h * head + low : h * head + low + depth] = np.split(x[h], 2, -1)
    part, pitch = s.get("w_strides", (depth * columns, matrix[1]))
    w_memory = np.full((heads, part // pitch, pitch), 0x7FC0, np.uint16)
    w_memory[:, : matrix[0], : matrix[1]] = w
    row, head = s.get("y_strides", (heads * columns, columns))
    y = library.run(name, {"tokens": tokens}, cores=cores, x=x_memory, w=w_memory)["y"].reshape(tokens, row)
    got = np.stack([y[:, h * head : h * head + columns] for h in range(heads)])
    assert near(name, got, x, w.swapaxes(-1, -2) if s.get("by_depth") else w)


COUNTS = {
    "product_groups": ((0, 1, 0, 130, 2, 17, 0), (1, 0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0, 300), (2, 2, 2, 2, 2, 2, 2)),
    "product_groups_bf16": ((0, 0, 1), (3, 129, 0), (1, 1, 1)),
}


@pytest.mark.parametrize("cores", [1, 7, 24])
@pytest.mark.parametrize(("name", "counts"), [(n, c) for n, several in COUNTS.items() for c in several])
def test_groups(library: Library, name: str, counts: tuple[int, ...], cores: int) -> None:
    """Rows by their group's weights, which one core alone may not know."""
    s, rng, ends = catalogue.PRODUCT[name], np.random.default_rng(cores), np.cumsum(counts, dtype=np.int32)
    tokens = int(ends[-1])
    x = rows(name, rng.normal(size=(tokens, s["depth"])))
    w = to_bf16(rng.normal(size=(s["groups"], s["columns"], s["depth"])))
    y = library.run(name, {"tokens": tokens}, cores=cores, x=x, w=w, ends=ends)["y"].reshape(tokens, -1)
    for group, (count, end) in enumerate(zip(counts, ends, strict=True)):
        part = slice(end - count, end)
        assert near(name, y[part], x[part], w[group])
    alone = library.run(name, {"tokens": tokens}, cores=3, x=x, w=w, ends=ends)["y"].reshape(tokens, -1)
    assert (alone == y).all()


@pytest.mark.parametrize("cores", [1, 3, 24, 64])
def test_any_count_of_cores(library: Library, cores: int) -> None:
    check(library, "product_96", 17, "random", cores)
    check(library, "product_logits", 3, "random", cores)


@pytest.mark.parametrize("name", ["product_2560", "product_split_2560"])
def test_few_tokens_read_the_weights_once(library: Library, name: str) -> None:
    """At the model's own size; split rows are twice as many bytes, and the weights are read once for both parts."""
    library.library.pangu_sim_clear_reports()
    check(library, name, 4, "random")
    library.library.pangu_sim_reports.restype = ctypes.c_char_p
    (report,) = json.loads(library.library.pangu_sim_reports())
    weights, rows = 2560 * 2560 * 2, 4 * 2560 * (4 if is_split(name) else 2)  # the rows of x: once for each core
    assert report["gm_read_bytes"] == weights + report["blocks"] * rows


@pytest.mark.parametrize("name", ["product_96", "product_odd", "product_split_odd"])
def test_a_row_does_not_depend_on_the_others(library: Library, name: str) -> None:
    """The same bits alone, among others, on another count of cores, and in another block of rows."""
    x, w = operands(name, 140, "random")
    columns = catalogue.PRODUCT[name]["columns"]
    whole = library.run(name, {"tokens": 140}, cores=CORES, x=x, w=w)["y"].reshape(140, columns)
    for row, cores in ((0, 20), (69, 7), (139, 24)):
        alone = library.run(name, {"tokens": 1}, cores=cores, x=x[row : row + 1], w=w)["y"]
        assert (alone.reshape(columns) == whole[row]).all()
