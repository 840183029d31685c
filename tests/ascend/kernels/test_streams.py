"""Hyper-connection kernels on the simulator against the float64 semantics of mhc_pre, mhc_post, mhc_post_pre and mhc_merge."""

from __future__ import annotations

from typing import Any

import catalogue
import numpy as np
import pytest
from kernel_harness import Library, close, from_bf16, quantised, to_bf16, ulps

from pangu_compile.ir.ops import streams


def given(kind: str | None, values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if kind == "float" else to_bf16(values)


def operands(spec: dict[str, Any], tokens: int, scale: float) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays for the kernel, and the attributes of the OpDef."""
    rng = np.random.default_rng(tokens)
    n, h, post, pre = spec["streams"], spec["hidden"], spec.get("post"), spec.get("pre")
    a: dict[str, np.ndarray] = {"x": given(spec.get("stream_type"), rng.normal(size=(tokens, n, h)) * scale)}
    attrs: dict[str, Any] = {}

    def add(name: str, values: np.ndarray) -> None:
        a[name] = values.astype(np.float32)

    if post:
        a["out"] = given(spec.get("out_type"), rng.normal(size=(tokens, h)) * scale)
        add("post", rng.uniform(0, 2, size=(tokens, n)))
        add("res", rng.uniform(0, 1, size=(tokens, n, n)))
        for name, size, eps in (("out_norm", h, post.out_eps), ("block_norm", n * h, post.block_eps)):
            if eps is not None:
                add(name, rng.normal(size=size))
        attrs |= {"out_eps": post.out_eps, "block_eps": post.block_eps}
    if pre:
        rows = n if pre.merge else n * (n + 2)
        add("phi", rng.normal(size=(rows, n * h)) * 2 / np.sqrt(n * h))
        add("alpha", rng.uniform(0.5, 1.5, size=1 if pre.merge else 3))
        add("beta", rng.normal(size=rows))
        if pre.gamma:
            add("gamma", rng.normal(size=n * h))
        if pre.norm_eps is not None:
            add("norm", rng.normal(size=h))
        attrs |= {"pre_eps": pre.pre_eps, "mhc_eps": pre.mhc_eps, "iterations": pre.iterations, "norm_eps": pre.norm_eps}
    return a, attrs


def wide(a: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n: from_bf16(v) if v.dtype == np.uint16 else v.astype(np.float64) for n, v in a.items()}


def mixed(x: np.ndarray, stored: np.ndarray, a: dict[str, np.ndarray], attrs: dict[str, Any]) -> np.ndarray:
    """The branch input, or the merged streams: gates of x, streams as they are stored."""
    n = x.shape[1]
    gate = streams.sigmoid(a["alpha"][0] * streams._project(x, a, attrs["pre_eps"])[:, :n] + a["beta"][:n]) + attrs["mhc_eps"]
    y = (gate[:, :, None] * stored).sum(1)
    return streams.rms(y, a["norm"], attrs["norm_eps"]) if "norm" in a else y


def check(library: Library, name: str, tokens: int, scale: float = 1.0) -> None:
    spec = catalogue.MHC[name]
    a, attrs = operands(spec, tokens, scale)
    got, exact = library.run(name, {"tokens": tokens}, **a), wide(a)
    x, pre, post = exact["x"], spec.get("pre"), spec.get("post")
    stored = x
    if post:
        x = streams.post(exact, attrs)
        new_x = got["new_x"].reshape(tokens, -1)
        if new_x.dtype == np.float32:
            assert np.abs(new_x - x.reshape(tokens, -1)).max() <= 2e-6 * np.abs(x).max()
        else:
            assert ulps(new_x, x.reshape(tokens, -1)) <= 0.51
        # The branch input is mixed from the bf16 streams, unless the block's norm kept them in float32.
        stored = x if post.block_eps is not None else wide({"x": got["new_x"]})["x"].reshape(x.shape)
    if pre:
        y = got["h" if pre.merge else "y"].reshape(tokens, -1)
        exact_y = mixed(x, stored, exact, attrs)
        assert close(y, exact_y, spec.get("y_type", "bfloat16_t"), 0.55)
        if pre.wide_y:
            assert np.abs(got["y_wide"].reshape(exact_y.shape) - exact_y).max() <= 4e-6 * np.abs(exact_y).max()
        if pre.digits:
            assert quantised(got["y_q"], got["y_scale"], exact_y, pre.digits)
    if pre and not pre.merge:
        want = streams.pre(x, exact, attrs)
        for result in ("new_post", "new_res"):
            assert np.abs(got[result].reshape(want[result].shape) - want[result]).max() <= 2e-6


@pytest.mark.parametrize("tokens", catalogue.TOKENS)
@pytest.mark.parametrize("name", list(catalogue.MHC))
def test_streams(library: Library, name: str, tokens: int) -> None:
    check(library, name, tokens if catalogue.MHC[name]["hidden"] < 1000 else min(tokens, 5))


@pytest.mark.parametrize("name", ["chain_96", "chain_block", "post_block", "pre_odd", "merge_96"])
def test_large_values(library: Library, name: str) -> None:
    check(library, name, 9, scale=3e3)


@pytest.mark.parametrize("name", ["chain_int8", "chain_both", "chain_wide", "chain_digits"])
def test_many_tokens_on_one_core(library: Library, name: str) -> None:
    """Every buffer of every queue comes round: the event ids of the pipes must suffice."""
    a, _ = operands(catalogue.MHC[name], 40, 1.0)
    one, many = (library.run(name, {"tokens": 40}, cores=cores, **a) for cores in (1, 40))
    result = "y_scale" if "y_scale" in one else "y_wide"
    assert np.abs(one[result] - many[result]).max() < 1e-4


def test_more_tokens_than_cores_and_few_cores(library: Library) -> None:
    a, _ = operands(catalogue.MHC["chain_96"], 23, 1.0)
    one = library.run("chain_96", {"tokens": 23}, cores=1, **a)
    many = library.run("chain_96", {"tokens": 23}, cores=48, **a)
    assert ulps(many["y"].reshape(23, -1), from_bf16(one["y"]).reshape(23, -1)) <= 1.01


def test_matrices_are_doubly_stochastic(library: Library) -> None:
    a, _ = operands(catalogue.MHC["pre_2560"], 3, 1.0)
    res = library.run("pre_2560", {"tokens": 3}, **a)["new_res"].reshape(3, 4, 4)
    assert np.allclose(res.sum(-2), 1, atol=1e-4) and np.allclose(res.sum(-1), 1, atol=1e-3)
