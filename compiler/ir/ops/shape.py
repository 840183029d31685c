"""Views and concatenation: operators that move or rename elements without computing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..opdef import Attrs, Env, OpDef, define, free
from ..types import IRError, TensorType, dim, evaluate_dim, same_dim


def _resolved(shape: Sequence[object], env: Env) -> tuple[int, ...]:
    return tuple(evaluate_dim(d, env) for d in shape)


def _infer_reshape(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    out = TensorType(types[0].dtype, tuple(dim(d) for d in attrs["shape"]))
    if not same_dim(out.numel, types[0].numel):
        raise IRError(f"reshape of {types[0]} to {list(map(str, attrs['shape']))} changes the number of elements")
    return [out]


def _infer_broadcast(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    source, target = types[0].shape, tuple(dim(d) for d in attrs["shape"])
    if len(source) > len(target):
        raise IRError(f"broadcast of {types[0]} to a lower rank")
    padded = (1,) * (len(target) - len(source)) + source
    if any(not same_dim(s, 1) and not same_dim(s, t) for s, t in zip(padded, target, strict=True)):
        raise IRError(f"{types[0]} does not broadcast to {list(map(str, target))}")
    return [TensorType(types[0].dtype, target)]


def _infer_transpose(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    perm = attrs["perm"]
    if sorted(perm) != list(range(types[0].rank)):
        raise IRError(f"perm {perm} is not a permutation of {types[0].rank} axes")
    return [TensorType(types[0].dtype, tuple(types[0].shape[p] for p in perm))]


def _infer_slice(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    axis, start, stop = attrs["axis"], dim(attrs["start"]), dim(attrs["stop"])
    shape = list(types[0].shape)
    if not 0 <= axis < len(shape):
        raise IRError(f"slice axis {axis} of {types[0]}")
    known = [d for d in (start, stop, shape[axis]) if isinstance(d, int)]
    if len(known) == 3 and not 0 <= start <= stop <= shape[axis]:
        raise IRError(f"slice [{start}:{stop}] of {types[0]} axis {axis}")
    shape[axis] = dim(stop - start)
    return [TensorType(types[0].dtype, tuple(shape))]


def _slice(arrays: Sequence[np.ndarray], attrs: Attrs, env: Env) -> list[np.ndarray]:
    at = [slice(None)] * arrays[0].ndim
    at[attrs["axis"]] = slice(evaluate_dim(attrs["start"], env), evaluate_dim(attrs["stop"], env))
    return [arrays[0][tuple(at)]]


def _infer_concat(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    axis, first = attrs["axis"], types[0]
    if not 0 <= axis < first.rank:
        raise IRError(f"concat axis {axis} of {first}")
    shape = list(first.shape)
    for t in types[1:]:
        if t.dtype != first.dtype or t.rank != first.rank:
            raise IRError(f"concat of {first} and {t}")
        if any(i != axis and not same_dim(a, b) for i, (a, b) in enumerate(zip(first.shape, t.shape, strict=True))):
            raise IRError(f"concat of {first} and {t} along axis {axis}")
        shape[axis] = dim(shape[axis] + t.shape[axis])
    return [TensorType(first.dtype, tuple(shape))]


define(OpDef("reshape", 1, _infer_reshape, lambda x, a, e: [np.reshape(x[0], _resolved(a["shape"], e))],
             {"shape": (tuple,)}, kind="view", cost=free))  # fmt: skip
define(OpDef("broadcast", 1, _infer_broadcast, lambda x, a, e: [np.broadcast_to(x[0], _resolved(a["shape"], e))],
             {"shape": (tuple,)}, kind="view", cost=free))  # fmt: skip
define(OpDef("transpose", 1, _infer_transpose, lambda x, a, e: [np.transpose(x[0], a["perm"])],
             {"perm": (tuple,)}, kind="view", cost=free))  # fmt: skip
define(OpDef("slice", 1, _infer_slice, _slice, {"axis": (int,), "start": (object,), "stop": (object,)},
             kind="view", cost=free))  # fmt: skip
define(OpDef("concat", None, _infer_concat, lambda x, a, e: [np.concatenate(list(x), a["axis"])], {"axis": (int,)}))
