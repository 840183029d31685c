"""The residual: manifold-constrained hyper-connections (mHC) and their chains, and the plain residual.

Streams x [T, n, H]. Formulas: shared specification, "mHC"; everything here is computed in at least float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..opdef import Attrs, Cost, Env, OpDef, define
from ..slots import Signature, named, ordered
from ..types import Dim, TensorType, dim, same_shape
from .norm import activations, expect, rms
from .pointwise import sigmoid

Arrays = Sequence[np.ndarray]
Types = Sequence[TensorType]
Named = Mapping[str, np.ndarray]


def sinkhorn(raw: np.ndarray, iterations: int, eps: float) -> np.ndarray:
    """Softmax over rows, then columns first, then rows and columns alternately; iterations counts the column steps."""
    e = np.exp(raw - raw.max(-1, keepdims=True))
    r = e / e.sum(-1, keepdims=True) + eps
    r = r / (r.sum(-2, keepdims=True) + eps)
    for _ in range(iterations - 1):
        r = r / (r.sum(-1, keepdims=True) + eps)
        r = r / (r.sum(-2, keepdims=True) + eps)
    return r


def _infer_sinkhorn(types: Types, attrs: Attrs) -> list[TensorType]:
    shape = types[0].shape
    expect(types[0].rank == 3 and same_shape(shape[1:2], shape[2:]) and attrs["iterations"] >= 1, f"sinkhorn of {types[0]}")
    return [types[0]]


define(OpDef("sinkhorn", 1, _infer_sinkhorn, lambda x, a, e: [sinkhorn(x[0], a["iterations"], a["eps"])],
             {"iterations": (int,), "eps": (float,)}, kind="fused", tolerance=1e-5,
             doc="raw[T, n, n] -> doubly stochastic R: softmax over rows, then columns first, alternately."))  # fmt: skip


def _project(x: np.ndarray, a: Named, eps: float) -> np.ndarray:
    flat = rms(x.reshape(len(x), -1), a.get("gamma"), eps)
    return flat @ a["phi"].T


def pre(x: np.ndarray, a: Named, attrs: Attrs) -> dict[str, np.ndarray]:
    """Branch input y (normed where `norm` is given), h_post and R of `phi`, `alpha`, `beta`, `gamma`."""
    n, eps = x.shape[1], attrs["mhc_eps"]
    m, alpha, beta = _project(x, a, attrs["pre_eps"]), a["alpha"], a["beta"]
    h_pre = sigmoid(alpha[0] * m[:, :n] + beta[:n]) + eps
    post = 2 * sigmoid(alpha[1] * m[:, n : 2 * n] + beta[n : 2 * n])
    raw = (alpha[2] * m[:, 2 * n :] + beta[2 * n :]).reshape(-1, n, n)
    y = (h_pre[:, :, None] * x).sum(1)
    y = rms(y, a["norm"], attrs["norm_eps"]) if "norm" in a else y
    return {"y": y, "new_post": post, "new_res": sinkhorn(raw, attrs["iterations"], eps)}


def _branch(a: Named, attrs: Attrs) -> np.ndarray:
    return rms(a["out"], a["out_norm"], attrs["out_eps"]) if "out_norm" in a else a["out"]


def _block(x: np.ndarray, a: Named, attrs: Attrs) -> np.ndarray:
    if "block_norm" not in a:
        return x
    return rms(x.reshape(len(x), -1), a["block_norm"], attrs["block_eps"]).reshape(x.shape)


def post(a: Named, attrs: Attrs) -> np.ndarray:
    """X'[j] = post[j] * norm(out) + sum_i R[i, j] * X[i], then the block_post norm of all streams together."""
    kept = np.einsum("tij,tih->tjh", a["res"], a["x"])
    return _block(a["post"][:, :, None] * _branch(a, attrs)[:, None, :] + kept, a, attrs)


def _evaluate_pre(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    a = named(attrs, arrays)
    return ordered(attrs, pre(a["x"], a, attrs))


def _evaluate_post(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    a = named(attrs, arrays)
    x = post(a, attrs)
    results = {"new_x": x}
    if "phi" in a:
        results |= pre(x, a, attrs)
    return ordered(attrs, results)


def _evaluate_merge(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    a = named(attrs, arrays)
    w = sigmoid(a["alpha"] * _project(a["x"], a, attrs["pre_eps"]) + a["beta"]) + attrs["mhc_eps"]
    return [(w[:, :, None] * a["x"]).sum(1)]


def _check_post(t: Mapping[str, TensorType]) -> None:
    tokens, n, h = t["x"].shape
    for name, shape in (("out", (tokens, h)), ("post", (tokens, n)), ("res", (tokens, n, n)), ("out_norm", (h,)),
                        ("block_norm", (n * h,))):  # fmt: skip
        expect(name not in t or same_shape(t[name].shape, shape), f"{name} {t.get(name)} for streams {t['x']}")


def _check_pre(t: Mapping[str, TensorType], rows: Dim, scalars: int) -> None:
    h = t["x"].shape[2]
    for name, shape in (("phi", (rows, t["x"].shape[1] * h)), ("alpha", (scalars,)), ("beta", (rows,)),
                        ("gamma", (t["x"].shape[1] * h,)), ("norm", (h,))):  # fmt: skip
        expect(name not in t or same_shape(t[name].shape, shape), f"{name} {t.get(name)} for streams {t['x']}")


def _results(x: TensorType) -> dict[str, TensorType]:
    tokens, n, h = x.shape
    shapes = {"new_x": (tokens, n, h), "y": (tokens, h), "new_post": (tokens, n), "new_res": (tokens, n, n)}
    return {name: TensorType(x.dtype, shape) for name, shape in shapes.items()}


def _infer(signature: Signature) -> object:
    def infer(types: Types, attrs: Attrs) -> list[TensorType]:
        signature.check(attrs)
        t = named(attrs, types)
        expect(t["x"].rank == 3, f"streams {t['x']}")
        n = t["x"].shape[1]
        _check_post(t)
        if "phi" in t:
            _check_pre(t, n * (n + 2), 3)
        return ordered(attrs, _results(t["x"]))

    return infer


def _infer_merge(types: Types, attrs: Attrs) -> list[TensorType]:
    MERGE.check(attrs)
    t = named(attrs, types)
    expect(t["x"].rank == 3, f"streams {t['x']}")
    _check_pre(t, t["x"].shape[1], 1)
    return [TensorType(t["x"].dtype, (t["x"].shape[0], t["x"].shape[2]))]


def _cost(inputs: Types, outputs: Types, attrs: Attrs) -> Cost:
    t = named(attrs, inputs)
    tokens, n, h = t["x"].shape
    flops: Dim = 0
    if "post" in t:
        flops += tokens * h * n * (2 * n + 2)
    if "phi" in t:
        flops += 2 * tokens * t["phi"].numel + tokens * n * h * 6 + tokens * attrs.get("iterations", 0) * 4 * n * n
    return Cost(dim(flops), activations(*inputs, *outputs))


_PRE_SLOTS = ("phi", "alpha", "beta", "gamma", "norm")
_POST_SLOTS = ("x", "out", "post", "res", "out_norm", "block_norm")
_OPTIONAL = frozenset({"gamma", "norm", "out_norm", "block_norm"})
_PRE_ATTRS: dict[str, tuple[type, ...]] = {
    "pre_eps": (float,), "norm_eps": (float,), "mhc_eps": (float,), "iterations": (int,),
}  # fmt: skip
_POST_ATTRS: dict[str, tuple[type, ...]] = {"out_eps": (float,), "block_eps": (float,)}
_NAMES: dict[str, tuple[type, ...]] = {"slots": (tuple,), "results": (tuple,)}

PRE = Signature(("x", *_PRE_SLOTS), ("y", "new_post", "new_res"), _OPTIONAL)
POST = Signature(_POST_SLOTS, ("new_x",), _OPTIONAL)
CHAIN = Signature((*_POST_SLOTS, *_PRE_SLOTS), ("new_x", "y", "new_post", "new_res"), _OPTIONAL)
MERGE = Signature(("x", "phi", "alpha", "beta", "gamma"), ("h",), _OPTIONAL)

for _name, _signature, _evaluate, _attrs, _doc in (
    ("mhc_pre", PRE, _evaluate_pre, _PRE_ATTRS,
     "x[T, n, H], phi[n(n+2), nH], alpha[3], beta[n(n+2)] -> y[T, H], post[T, n], res[T, n, n]; `norm` RMS-norms y."),
    ("mhc_post", POST, _evaluate_post, _POST_ATTRS,
     "x[T, n, H], out[T, H], post[T, n], res[T, n, n] -> new streams; `out_norm` norms the branch first, `block_norm` "
     "the streams after."),
    ("mhc_post_pre", CHAIN, _evaluate_post, {**_POST_ATTRS, **_PRE_ATTRS},
     "mhc_post, then the mhc_pre of the next branch: all that lies between two projections."),
):  # fmt: skip
    define(OpDef(_name, None, _infer(_signature), _evaluate, {**_NAMES, **_attrs}, kind="fused", cost=_cost,  # type: ignore[arg-type]
                 signature=_signature, tolerance=1e-4, doc=_doc))  # fmt: skip
define(OpDef("mhc_merge", None, _infer_merge, _evaluate_merge, {**_NAMES, "pre_eps": (float,), "mhc_eps": (float,)},
             kind="fused", cost=_cost, signature=MERGE, tolerance=1e-4,
             doc="x[T, n, H], phi[n, nH], alpha[1], beta[n] -> h[T, H]: the streams as one hidden vector."))  # fmt: skip


def _infer_residual(types: Types, attrs: Attrs) -> list[TensorType]:
    RESIDUAL.check(attrs)
    t = named(attrs, types)
    expect(t["x"].rank == 2 and t["out"].same(t["x"]), f"residual of {t['x']} and {t['out']}")
    for name in ("out_norm", "block_norm", "norm"):
        expect(name not in t or same_shape(t[name].shape, t["x"].shape[1:]), f"{name} {t.get(name)} for {t['x']}")
    return [t["x"]] * len(attrs["results"])


def _evaluate_residual(arrays: Arrays, attrs: Attrs, env: Env) -> list[np.ndarray]:
    a = named(attrs, arrays)
    x = a["x"] + _branch(a, attrs)
    x = rms(x, a["block_norm"], attrs["block_eps"]) if "block_norm" in a else x
    results = {"new_x": x}
    if "norm" in a:
        results["y"] = rms(x, a["norm"], attrs["norm_eps"])
    return ordered(attrs, results)


RESIDUAL = Signature(("x", "out", "out_norm", "block_norm", "norm"), ("new_x", "y"),
                     frozenset({"out_norm", "block_norm", "norm", "y"}))  # fmt: skip
define(OpDef("residual", None, _infer_residual, _evaluate_residual, {**_NAMES, **_POST_ATTRS, "norm_eps": (float,)},
             kind="fused", signature=RESIDUAL, cost=lambda i, o, a: Cost(dim(6 * i[0].numel), activations(*i, *o)),
             doc="x[T, H] + norm(out), normed itself by `block_norm`; y is that once more under `norm`."))  # fmt: skip
