"""Latent attention on the simulator against float64: windows over a ring, whole caches, chosen rows; sinks."""

from __future__ import annotations

from typing import Any

import catalogue
import numpy as np
import pytest
from kernel_harness import Library, from_bf16, to_bf16

from pangu_compile.ir.ops.attention import _causal, joint_softmax
from pangu_compile.ir.ops.norm import window_rows


def attend(s: dict[str, Any], query: np.ndarray, keys: np.ndarray, visible: np.ndarray, sinks: np.ndarray | None) -> np.ndarray:
    """The middle of ir/ops/attention._attend: from the absorbed query to the mix of latent rows."""
    scaled, form = query * s["scale"], "thc,nc->thn" if keys.ndim == 2 else "thc,tnc->thn"
    products = np.where(visible[:, None, :], np.einsum(form, scaled, keys), -np.inf)
    weights, sink_weights = joint_softmax(products, None if sinks is None else np.einsum("thc,sc->ths", scaled, sinks))
    form = "thn,nc->thc" if keys.ndim == 2 else "thn,tnc->thc"
    mixed = np.einsum(form, weights, keys[..., : s["latent"]])
    if sinks is not None and sink_weights is not None:
        mixed = mixed + np.einsum("ths,sc->thc", sink_weights, sinks[:, : s["latent"]])
    return mixed


def case(s: dict[str, Any], tokens: int, start: int, scale: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Arrays for the kernel, and the result."""
    rng, width = np.random.default_rng(tokens + start), s["width"]
    a = {"query": to_bf16(rng.normal(size=(tokens, s["heads"], width)) * scale)}
    if s["sinks"]:
        a["sinks"] = to_bf16(rng.normal(size=(s["sinks"], width)))
    if s["kind"] == "swa":
        window = s["window"]
        a |= {"ring": to_bf16(rng.normal(size=(s["ring"], width))), "latent": to_bf16(rng.normal(size=(tokens, width)))}
        keys = window_rows(from_bf16(a["ring"]), from_bf16(a["latent"]), start, window - 1)
        position = start - (window - 1) + np.arange(len(keys))
        distance = (start + np.arange(tokens))[:, None] - position[None, :]
        visible = (position >= 0)[None, :] & (distance >= 0) & (distance < window)
    else:
        a["cache"] = to_bf16(rng.normal(size=(start + tokens, width)))
        keys, visible = from_bf16(a["cache"]), _causal(tokens, start + tokens)
    if s["kind"] == "dsa":
        order = np.argsort(-np.where(visible, rng.normal(size=visible.shape), -np.inf), -1, kind="stable")[:, : s["top"]]
        index = np.full((tokens, s["top"]), 1 << 30, np.int32)  # what is not chosen must not be read
        for t in range(tokens):
            count = min(s["top"], start + t + 1)
            index[t, :count] = order[t, :count]
        a["index"] = index
        keys, visible = keys[order], np.take_along_axis(visible, order, -1)
    sinks = from_bf16(a["sinks"]) if "sinks" in a else None
    return a, attend(s, from_bf16(a["query"]), keys, visible, sinks)


def check(library: Library, name: str, tokens: int, start: int, scale: float = 1.0, cores: int = 20) -> None:
    arrays, want = case(catalogue.ATTENTION[name], tokens, start, scale)
    got = library.run(name, {"tokens": tokens, "start": start}, cores=cores, **arrays)["out"]
    largest = np.abs(want).max(-1, keepdims=True)
    # bf16 weights and a bf16 result: a unit in the last place (2^-8 of the row's largest value) holds both roundings.
    assert (np.abs(from_bf16(got).reshape(want.shape) - want) / largest).max() <= 2.0**-7


@pytest.mark.parametrize(("tokens", "start"), [(1, 0), (1, 1), (1, 5), (2, 300), (4, 63), (70, 0), (70, 130)])
@pytest.mark.parametrize("name", [n for n in catalogue.ATTENTION if "full" not in n])
def test_attention(library: Library, name: str, tokens: int, start: int) -> None:
    check(library, name, tokens, start)


@pytest.mark.parametrize(("name", "tokens", "start"), [("swa_full", 1, 1000), ("swa_full", 2, 514), ("dsa_full", 1, 2100)])
def test_the_published_shapes(library: Library, name: str, tokens: int, start: int) -> None:
    check(library, name, tokens, start)


def test_a_row_longer_than_a_chunk(library: Library) -> None:
    check(library, "dense_odd", 3, 4500)


def test_rows_too_far_apart_for_one_copy(library: Library) -> None:
    """One core keeps whole rows of scores: more than 65535 columns, which the copy to L1 cannot step over at once."""
    check(library, "dense_odd", 2, 66_000, cores=1)


@pytest.mark.parametrize("name", ["swa_small", "dense_odd", "dsa_odd"])
def test_one_key_takes_all(library: Library, name: str) -> None:
    check(library, name, 3, 40, scale=1e3)


def test_cores_in_any_number(library: Library) -> None:
    arrays, _ = case(catalogue.ATTENTION["swa_odd"], 70, 9, 1.0)
    results = [library.run("swa_odd", {"tokens": 70, "start": 9}, cores=c, **arrays)["out"] for c in (1, 3, 20)]
    assert all((r == results[0]).all() for r in results)


@pytest.mark.parametrize("name", ["swa_small", "dense_odd", "dsa_odd"])
def test_one_token_over_many_cores(library: Library, name: str) -> None:
    """Keys are cut into parts for the cores; every length of the past must come out whole."""
    for start in range(0, 700, 23):
        arrays, want = case(catalogue.ATTENTION[name], 1, start, 1.0)
        got = library.run(name, {"tokens": 1, "start": start}, cores=24, **arrays)["out"]
        assert (np.abs(from_bf16(got).reshape(want.shape) - want) / np.abs(want).max(-1, keepdims=True)).max() <= 2.0**-7
