"""Norm, quantisation, SwiGLU, convolution, rotary and residual kernels on the simulator against float64 semantics."""

from __future__ import annotations

from typing import Any

import catalogue
import numpy as np
import pytest
from kernel_harness import Library, close, from_bf16, from_split, quantised, to_bf16, to_split, ulps

from pangu_compile.ir.ops.norm import mome, rms, rotate, silu, write_ring

pytestmark = pytest.mark.filterwarnings("error")
ULP = 0.51  # of a result that was rounded once


def floats(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (rng.normal(size=shape) * scale).astype(np.float32)


def halves(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return to_bf16(floats(rng, *shape, scale=scale))


def rows(rng: np.random.Generator, s: dict[str, Any], *shape: int) -> np.ndarray:
    """Operands of the kernel's type, bf16 or float32."""
    return (floats if s.get("x_type") == "float" or s.get("split") else halves)(rng, *shape)


def check_rows(s: dict[str, Any], got: np.ndarray, want: np.ndarray) -> None:
    """Rows of a result of the kernel's type: bf16, rounded once, or split, which is within 2^-17 of float32 arithmetic."""
    if s.get("y_type") == "split" or s.get("split"):
        size = np.maximum(np.abs(want), np.sqrt(np.mean(want**2, -1, keepdims=True)))  # of arithmetic, where terms cancel
        assert (np.abs(from_split(got) - want) / size).max() <= 2.0**-17 + 1e-6
    elif s.get("y_type") == "float":
        assert close(got, want, "float")
    else:
        assert ulps(got, want) <= ULP


def exact(x: np.ndarray) -> np.ndarray:
    return from_bf16(x) if x.dtype == np.uint16 else x.astype(np.float64)


@pytest.mark.parametrize("tokens", catalogue.TOKENS)
@pytest.mark.parametrize("name", list(catalogue.RMS))
def test_rms_norm(library: Library, name: str, tokens: int) -> None:
    rng, spec = np.random.default_rng(tokens), catalogue.RMS[name]
    x = (floats if spec.get("x_type") == "float" else halves)(rng, tokens, spec["channels"])
    x[0] = np.full(spec["channels"], 1e4) if x.dtype == np.float32 else to_bf16(np.full(spec["channels"], 1e4))
    x[-1] = 0 if tokens > 1 else x[-1]
    gamma = floats(rng, spec["channels"])
    got, want = library.run(name, {"tokens": tokens}, x=x, gamma=gamma), rms(exact(x), gamma, spec["eps"])
    if "digits" in spec:
        assert quantised(got["y"], got["scale"], want, spec["digits"])
    else:
        assert close(got["y"], want, spec.get("y_type", "bfloat16_t"))


@pytest.mark.parametrize("tokens", catalogue.TOKENS)
@pytest.mark.parametrize("name", list(catalogue.RESIDUAL))
def test_residual(library: Library, name: str, tokens: int) -> None:
    rng, spec = np.random.default_rng(tokens), catalogue.RESIDUAL[name]
    c = spec["channels"]
    wide = {name: spec.get(name) == "float" for name in ("stream_type", "out_type")}
    x = (floats if wide["stream_type"] else halves)(rng, tokens, c)
    out = (floats if wide["out_type"] else halves)(rng, tokens, c, scale=100)
    norms = {
        n: floats(rng, c) for n, e in (("out_norm", "out_eps"), ("block_norm", "block_eps"), ("norm", "norm_eps")) if e in spec
    }
    got = library.run(name, {"tokens": tokens}, x=x, out=out, **norms)
    branch = exact(out)
    branch = rms(branch, norms["out_norm"], spec["out_eps"]) if "out_norm" in norms else branch
    want = exact(x) + branch
    want = rms(want, norms["block_norm"], spec["block_eps"]) if "block_norm" in norms else want
    if wide["stream_type"]:
        assert np.abs(got["new_x"].reshape(tokens, c) - want).max() <= 1e-6 * np.abs(want).max()
    else:
        assert ulps(got["new_x"].reshape(tokens, c), want) <= ULP
    if "norm" in norms:
        y = rms(want, norms["norm"], spec["norm_eps"])
        assert close(got["y"], y, spec.get("y_type", "bfloat16_t"))
        if spec.get("wide_y"):
            assert np.abs(got["y_wide"].reshape(tokens, c) - y).max() <= 2e-6 * np.abs(y).max()


@pytest.mark.parametrize("tokens", [1, 3, 70])
@pytest.mark.parametrize("name", list(catalogue.SWIGLU))
def test_swiglu(library: Library, name: str, tokens: int) -> None:
    spec = catalogue.SWIGLU[name]
    tokens, width = (tokens if spec["width"] < 1000 else min(tokens, 3)), spec["width"]
    rng = np.random.default_rng(tokens)
    x = halves(rng, tokens, 2 * width, scale=3)
    x[0, : width // 2] = to_bf16(np.where(np.arange(width // 2) % 2 == 0, 1e4, -1e4))
    wide = from_bf16(x)
    if spec.get("x_type") == "float":
        x = (wide * (1 + rng.uniform(0, 2**-9, wide.shape))).astype(np.float32)  # what bf16 cannot tell apart
        wide = x.astype(np.float64)
    got, want = library.run(name, {"tokens": tokens}, x=x), silu(wide[:, :width]) * wide[:, width:]
    if "digits" in spec:
        assert quantised(got["y"], got["scale"], want, spec["digits"])
    else:
        assert close(got["y"], want, spec.get("y_type", "bfloat16_t"))


@pytest.mark.parametrize(("tokens", "start"), [(1, 0), (1, 1), (1, 100), (2, 0), (3, 1), (4, 50), (5, 2), (70, 0), (70, 13)])
@pytest.mark.parametrize("name", list(catalogue.CONV))
def test_convolution_norm_and_rotary(library: Library, name: str, tokens: int, start: int) -> None:
    rng, spec = np.random.default_rng(tokens + start), catalogue.CONV[name]
    c, turned, row = spec["channels"], spec.get("rotary", 0), 3
    x = rows(rng, spec, tokens, spec.get("x_pitch", c + turned))
    wide = exact(x)
    want, arrays, ring = wide[:, :c], {"x": x}, None
    if "taps" in spec:
        weight, ring = floats(rng, c, 1, spec["taps"]), rows(rng, spec, spec["ring"], c)
        arrays |= {"weight": np.ascontiguousarray(weight[:, 0].T), "ring": ring}
        want, _ = mome(want, weight.astype(np.float64), start, exact(ring))
    if "norm_eps" in spec:
        arrays["gamma"] = floats(rng, c)
        want = rms(want, arrays["gamma"], spec["norm_eps"])
    if turned:
        arrays["table"] = floats(rng, tokens, turned)
        want = np.concatenate([want, rotate(wide[:, c:], arrays["table"], 0)], -1)
    got = library.run(name, {"tokens": tokens, "start": start, "row": row}, **arrays)
    y = got["y"].reshape(row + tokens, -1)
    check_rows(spec, y[row:], want)
    assert (y[:row] == 77).all()  # rows before the destination stay as they were
    if ring is not None:
        assert (got["ring"] == write_ring(ring, x[:, :c], start)).all()


@pytest.mark.parametrize("tokens", catalogue.TOKENS)
@pytest.mark.parametrize("name", list(catalogue.ROTARY))
def test_rotary(library: Library, name: str, tokens: int) -> None:
    rng, s = np.random.default_rng(tokens), catalogue.ROTARY[name]
    x, table = rows(rng, s, tokens, s["heads"], s["channels"]), floats(rng, tokens, s["dim"])
    got = library.run(name, {"tokens": tokens}, x=x, table=table)["y" if s.get("split") else "x"].reshape(tokens, s["heads"], -1)
    want = rotate(exact(x), table, s["offset"])
    flat = got.reshape(tokens * s["heads"], -1)
    check_rows(s, flat, want.reshape(-1, s["channels"]))
    rest = np.r_[0 : s["offset"], s["offset"] + s["dim"] : s["channels"]]
    kept = to_split(x) if s.get("split") else x
    for half in range(got.shape[-1] // s["channels"]):
        assert (got[..., rest + half * s["channels"]] == kept[..., rest + half * s["channels"]]).all()


@pytest.mark.parametrize("tokens", catalogue.TOKENS)
@pytest.mark.parametrize("name", list(catalogue.QUERY))
def test_query_rows(library: Library, name: str, tokens: int) -> None:
    rng, s = np.random.default_rng(tokens), catalogue.QUERY[name]
    x, q = floats(rng, tokens, s["heads"], s["latent"]), floats(rng, tokens, s["heads"], s["width"])
    got = library.run(name, {"tokens": tokens}, x=x, q=to_split(q))["y"]
    want = to_split(np.concatenate([x, q[..., -s["rope"] :]], -1))
    assert (got.reshape(want.shape) == want).all()


@pytest.mark.parametrize("tokens", catalogue.TOKENS)
@pytest.mark.parametrize("name", list(catalogue.INDEX_KEY))
def test_index_key(library: Library, name: str, tokens: int) -> None:
    rng, s = np.random.default_rng(tokens), catalogue.INDEX_KEY[name]
    c = s["channels"]
    x = floats(rng, tokens, c) + np.float32(1)
    x = x if s.get("x_type") == "float" else to_bf16(x)
    arrays: dict[str, Any] = {"gamma": floats(rng, c), "table": floats(rng, tokens, s["dim"])}
    key = exact(x)
    if s.get("bias"):
        arrays["beta"] = floats(rng, c)
        key = key - key.mean(-1, keepdims=True)
    want = rotate(rms(key, arrays["gamma"], s["eps"]) + arrays.get("beta", 0.0), arrays["table"], 0)
    got = library.run(name, {"tokens": tokens, "row": 2}, x=x, **arrays)["cache"].reshape(2 + tokens, -1)
    check_rows(s, got[2:], want)


@pytest.mark.parametrize(("tokens", "start"), [(1, 0), (3, 1000), (70, 5), (600, 3)])
@pytest.mark.parametrize("name", list(catalogue.RING))
def test_ring_write(library: Library, name: str, tokens: int, start: int) -> None:
    rng, s = np.random.default_rng(tokens), catalogue.RING[name]
    columns = s["channels"] * (2 if s.get("row_type") == "split" else 1)
    x, ring = halves(rng, tokens, columns), halves(rng, s["ring"], columns)
    got = library.run(name, {"tokens": tokens, "start": start}, x=x, ring=ring)["ring"]
    assert (got == write_ring(ring, x, start)).all()


@pytest.mark.parametrize("cores", [1, 2, 7, 40, 48])
def test_any_number_of_cores_gives_the_same_bytes(library: Library, cores: int) -> None:
    rng, s = np.random.default_rng(0), catalogue.CONV["conv_144"]
    arrays = {"x": halves(rng, 29, 144), "weight": floats(rng, 3, 144), "ring": halves(rng, 5, 144)}
    one = library.run("conv_144", {"tokens": 29, "start": 4}, cores=40, **arrays)
    other = library.run("conv_144", {"tokens": 29, "start": 4}, cores=cores, **arrays)
    assert s["ring"] == 5 and all((one[n] == other[n]).all() for n in one)


@pytest.mark.parametrize("tokens", catalogue.TOKENS)
@pytest.mark.parametrize("name", list(catalogue.CONVERT))
def test_convert(library: Library, name: str, tokens: int) -> None:
    spec = catalogue.CONVERT[name]
    x = np.random.default_rng(tokens).normal(size=(tokens, spec["channels"])).astype(np.float32)
    forms = {"float": lambda v: v, "bfloat16_t": to_bf16, "split": to_split}
    values = {"float": lambda v: v, "bfloat16_t": from_bf16, "split": from_split}
    given = forms[spec["x_type"]](x)
    y = library.run(name, {"tokens": tokens}, x=given)["y"]
    want = forms[spec["y_type"]](values[spec["x_type"]](given).astype(np.float32))
    assert (y.reshape(want.shape) == want).all()
