"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..opdef import Attrs, Cost, OpDef, define
from ..types import IRError, TensorType, dim, same_dim
from .pointwise import broadcast_shapes


def _infer_matmul(types: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    a, b = types
    if a.dtype != b.dtype or not a.dtype.is_float or a.rank < 2 or b.rank < 2:
        raise IRError(f"matmul of {a} and {b}")
    if not same_dim(a.shape[-1], b.shape[-2]):
        raise IRError(f"matmul of {a} and {b}: inner sizes {a.shape[-1]} and {b.shape[-2]}")
    batch = broadcast_shapes([a.shape[:-2], b.shape[:-2]]) if a.rank > 2 or b.rank > 2 else ()
    return [TensorType(a.dtype, (*batch, a.shape[-2], b.shape[-1]))]


def _cost(inputs: Sequence[TensorType], outputs: Sequence[TensorType], attrs: Attrs) -> Cost:
    moved = sum(t.nbytes for t in (*inputs, *outputs))
    return Cost(dim(2 * outputs[0].numel * inputs[0].shape[-1]), moved)


define(OpDef("matmul", 2, _infer_matmul, lambda x, a, e: [np.matmul(x[0], x[1])], {}, cost=_cost, tolerance=1e-4,
             doc="a[..., M, K] times b[..., K, N]; batch axes broadcast."))  # fmt: skip
