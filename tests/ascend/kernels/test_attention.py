"""Latent attention on the simulator against float64: windows over a ring, whole caches, chosen rows; sinks."""

from __future__ import annotations

from typing import Any

import catalogue
import numpy as np
import pytest
from kernel_harness import Library, from_bf16, from_split, to_bf16, to_split

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


def is_split(s: dict[str, Any]) -> bool:
    return s.get("row_type") == "split"


def case(s: dict[str, Any], tokens: int, start: int, scale: float) -> tuple[dict[str, np.ndarray], np.ndarray, float]:
    """Arrays for the kernel, the result, and how far the kernel may be from it, in units of the largest value of a row."""
    rng, width = np.random.default_rng(tokens + start), s["width"]
    to_rows, from_rows = (to_split, from_split) if is_split(s) else (to_bf16, from_bf16)
    a = {"query": to_rows(rng.normal(size=(tokens, s["heads"], width)) * scale)}
    if s["sinks"]:
        a["sinks"] = to_rows(rng.normal(size=(s["sinks"], width)))
    if s["kind"] == "swa":
        window = s["window"]
        a |= {"ring": to_rows(rng.normal(size=(s["ring"], width))), "latent": to_rows(rng.normal(size=(tokens, width)))}
        keys = window_rows(from_rows(a["ring"]), from_rows(a["latent"]), start, window - 1)
        position = start - (window - 1) + np.arange(len(keys))
        distance = (start + np.arange(tokens))[:, None] - position[None, :]
        visible = (position >= 0)[None, :] & (distance >= 0) & (distance < window)
    else:
        a["cache"] = to_rows(rng.normal(size=(start + tokens, width)))
        keys, visible = from_rows(a["cache"]), _causal(tokens, start + tokens)
    if s["kind"] == "dsa":
        order = np.argsort(-np.where(visible, rng.normal(size=visible.shape), -np.inf), -1, kind="stable")[:, : s["top"]]
        index = np.full((tokens, s["top"]), 1 << 30, np.int32)  # what is not chosen must not be read
        for t in range(tokens):
            count = min(s["top"], start + t + 1)
            index[t, :count] = order[t, :count]
        a["index"] = index
        keys, visible = keys[order], np.take_along_axis(visible, order, -1)
    sinks = from_rows(a["sinks"]) if "sinks" in a else None
    query = from_rows(a["query"])
    return a, attend(s, query, keys, visible, sinks), tolerance(s, query, keys)


def tolerance(s: dict[str, Any], query: np.ndarray, keys: np.ndarray) -> float:
    """bf16 weights and a bf16 result: a unit in the last place (2^-8 of the row's largest value) holds both roundings.

    Split: values, weights and results are within 2^-18 each, and of a score's terms low * low is left out, 2^-18 of a term at most:
    random signs make that a fraction of 2^-18 of their root of squares.
    """
    if not is_split(s):
        return 2.0**-7
    spread = s["scale"] * np.sqrt(np.mean(query**2) * np.mean(keys**2) * s["width"])
    return float(2.0**-16 + 2.0**-17 * spread)


def check(library: Library, name: str, tokens: int, start: int, scale: float = 1.0, cores: int = 20) -> None:
    spec = catalogue.ATTENTION[name]
    arrays, want, limit = case(spec, tokens, start, scale)
    assert error(spec, library.run(name, {"tokens": tokens, "start": start}, cores=cores, **arrays)["out"], want) <= limit


def error(s: dict[str, Any], out: np.ndarray, want: np.ndarray) -> float:
    got = from_split(out.reshape(-1, 2 * s["latent"])) if is_split(s) else from_bf16(out)
    return float((np.abs(got.reshape(want.shape) - want) / np.abs(want).max(-1, keepdims=True)).max())


@pytest.mark.parametrize(("tokens", "start"), [(1, 0), (1, 1), (1, 5), (2, 300), (4, 63), (70, 0), (70, 130)])
@pytest.mark.parametrize("name", [n for n in catalogue.ATTENTION if "full" not in n])
def test_attention(library: Library, name: str, tokens: int, start: int) -> None:
    check(library, name, tokens, start)


@pytest.mark.parametrize("split", ["", "_split"])
@pytest.mark.parametrize(("name", "tokens", "start"), [("swa_full", 1, 1000), ("swa_full", 2, 514), ("dsa_full", 1, 2100)])
def test_the_published_shapes(library: Library, name: str, tokens: int, start: int, split: str) -> None:
    check(library, name + split, tokens, start)


@pytest.mark.parametrize("name", ["dense_odd", "dense_odd_split"])
def test_a_row_longer_than_a_chunk(library: Library, name: str) -> None:
    check(library, name, 3, 4500)


@pytest.mark.parametrize("name", ["dense_odd", "dense_odd_split"])
def test_rows_too_far_apart_for_one_copy(library: Library, name: str) -> None:
    """One core keeps whole rows of scores: more than 65535 columns, which the copy to L1 cannot step over at once."""
    check(library, name, 2, 66_000, cores=1)


@pytest.mark.parametrize("name", ["swa_small", "dense_odd", "dsa_odd", "dense_odd_split"])
def test_one_key_takes_all(library: Library, name: str) -> None:
    check(library, name, 3, 40, scale=1e3)


@pytest.mark.parametrize("name", ["swa_odd", "swa_odd_split"])
def test_cores_in_any_number(library: Library, name: str) -> None:
    arrays, _, _ = case(catalogue.ATTENTION[name], 70, 9, 1.0)
    results = [library.run(name, {"tokens": 70, "start": 9}, cores=c, **arrays)["out"] for c in (1, 3, 20)]
    assert all((r == results[0]).all() for r in results)


@pytest.mark.parametrize("name", ["swa_small", "dense_odd", "dsa_odd", "dsa_odd_split"])
def test_one_token_over_many_cores(library: Library, name: str) -> None:
    """Keys are cut into parts for the cores; every length of the past must come out whole."""
    for start in range(0, 700, 23):
        check(library, name, 1, start, cores=24)
