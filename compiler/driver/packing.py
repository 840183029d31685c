"""Weights as the CPU kernels read them (codegen/cpu/kernels/pangu_quant.h has the layout).

q8: int8 rows with one float32 scale each; q8i: eight of these together, four columns of each in turn. q4: groups of 32
with a float16 scale each, chosen for the least squared error.
A tensor of any rank is a matrix whose rows are its last axis. Everything works on slices of rows, so that packing a
tensor needs little memory beside the tensor itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from pangu_compile.errors import CompileError
from pangu_compile.ir import DType, TensorType
from pangu_compile.ir.types import QUANT_GROUP as GROUP
from pangu_compile.ir.types import SCALES_ALIGN, packed_row_bytes

from .bf16 import from_bf16, pack_rows, to_bf16, unpack_rows

SLICE = 1 << 20  # elements that are quantised at a time
# What the largest magnitude of a q4 group is mapped to, before the scale is fitted by least squares.
Q4_PEAKS = (-8.0, -7.0, -7.5, -8.6, 7.4)

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, columns) of a tensor of at least one axis."""
    return math.prod(shape[:-1]), shape[-1]


def row_bytes(fmt: str, columns: int) -> int:
    """Bytes of one row without its scales; fmt is f32, bf16, bf16c, q8, q8i or q4."""
    dtype = DType(fmt)
    return packed_row_bytes(dtype, columns) if dtype.is_packed else dtype.nbytes * columns


def scales_offset(fmt: str, rows: int, columns: int) -> int:
    """Where the scales of a packed tensor begin."""
    return -(-rows * row_bytes(fmt, columns) // SCALES_ALIGN) * SCALES_ALIGN


def packed_bytes(fmt: str, shape: tuple[int, ...]) -> int:
    """Bytes of a packed tensor, scales included."""
    return int(TensorType(DType(fmt), shape).nbytes)


def quantise_q8(rows: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """[R, I] -> (int8 [R, I], scale [R]) with q * scale nearest to the rows."""
    peak = np.abs(rows).max(-1, initial=0.0)
    scale = (peak / np.float32(127)).astype(np.float32)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    return np.clip(np.rint(rows * inverse[:, None]), -127, 127).astype(np.int8), scale


def quantise_q4(groups: Floats) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """[N, 32] -> (integers -8..7, scale [N]): of a few scales for each group the one of the least squared error."""
    at = np.abs(groups).argmax(-1)
    peak = np.take_along_axis(groups, at[:, None], -1)[:, 0]
    best = np.full(len(groups), np.inf, np.float32)
    integers = np.zeros(groups.shape, np.float32)
    scales = np.zeros(len(groups), np.float16)
    for target in Q4_PEAKS:
        q, _ = _round_q4(groups, peak / np.float32(target))
        square = np.einsum("ng,ng->n", q, q)
        fitted = np.divide(np.einsum("ng,ng->n", groups, q), square, out=np.zeros_like(square), where=square > 0)
        half = np.clip(fitted, -65504, 65504).astype(np.float16)
        q, error = _round_q4(groups, half.astype(np.float32))
        better = error < best
        best[better], scales[better], integers[better] = error[better], half[better], q[better]
    return integers.astype(np.int8), scales


def _round_q4(groups: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """The integers for given scales, and each group's squared error."""
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    q = np.clip(np.rint(groups * inverse[:, None]), -8, 7)
    rest = groups - q * scale[:, None]
    return q, np.einsum("ng,ng->n", rest, rest)


def _pack_slice(fmt: str, rows: Floats, name: str) -> tuple[Bytes, Bytes]:
    """A few rows -> (their bytes, their scales' bytes)."""
    if fmt == "f32":
        return rows.view(np.uint8).reshape(-1), np.zeros(0, np.uint8)
    if fmt == "bf16":
        return to_bf16(rows).view(np.uint8).reshape(-1), np.zeros(0, np.uint8)
    together = DType(fmt).rows_together
    if len(rows) % together:
        raise CompileError(f"weight {name} has rows that are no multiple of {together}; {fmt} cannot hold it")
    if fmt == "bf16c":
        stored, scale = pack_rows(rows, name)
        return stored, scale.view(np.uint8)
    if not np.isfinite(rows).all():
        raise CompileError(f"weight {name} holds NaN or infinity; it cannot be stored as {fmt}, use --weights bf16 or f32")
    padding = -rows.shape[1] % GROUP
    if fmt in ("q8", "q8i"):
        q, scale = quantise_q8(rows)
        padded: Bytes = np.pad(q, ((0, 0), (0, padding))).view(np.uint8)
        if fmt == "q8i":
            padded = np.ascontiguousarray(padded.reshape(-1, together, padded.shape[1] // 4, 4).swapaxes(1, 2))
        return padded.reshape(-1), scale.view(np.uint8)
    groups = np.pad(rows, ((0, 0), (0, padding))).reshape(-1, GROUP)
    q, half = quantise_q4(groups)
    nibbles = (q + 8).astype(np.uint8)
    pairs = np.bitwise_or(nibbles[:, : GROUP // 2], nibbles[:, GROUP // 2 :] << 4, dtype=np.uint8)
    return pairs.reshape(-1), half.view(np.uint8)


def pack_parts(
    fmt: str, shape: tuple[int, ...], parts: Iterable[npt.NDArray[Any]], name: str = "", jobs: int = 1
) -> Iterator[Bytes]:
    """The packed bytes of a float tensor, piece by piece, in order.

    Args:
        parts: the tensor's values in order, in pieces of whole rows.
        name: for error messages.
        jobs: threads that quantise.
    Raises:
        CompileError: the tensor holds NaN or infinity, which q8 and q4 cannot express, or the parts do not add up.
    """
    rows, columns = matrix_shape(shape)
    seen, data_bytes, scales = 0, 0, []
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        matrices: Iterable[npt.NDArray[Any]] = (part.reshape(-1, columns) for part in parts)
        for matrix in _whole(matrices, columns, DType(fmt).rows_together):
            seen += len(matrix)
            for data, scale in _in_order(pool, max(1, jobs), fmt, matrix, name):
                data_bytes += data.nbytes
                scales.append(scale)
                yield data
    if seen != rows:
        raise CompileError(f"weight {name} has {seen} rows, planned {rows}")
    if DType(fmt).is_packed:
        yield np.zeros(scales_offset(fmt, rows, columns) - data_bytes, np.uint8)
        yield from scales


def _whole(matrices: Iterable[npt.NDArray[Any]], columns: int, together: int) -> Iterator[npt.NDArray[Any]]:
    """The same rows in pieces of multiples of `together`; what is left at the end comes last."""
    rest: npt.NDArray[Any] = np.zeros((0, columns), np.float32)
    for matrix in matrices:
        if len(rest):
            missing = together - len(rest)
            rest, matrix = np.concatenate([rest, matrix[:missing]]), matrix[missing:]
            if len(rest) < together:
                continue
            yield rest
        whole = len(matrix) // together * together
        rest = np.array(matrix[whole:])
        if whole:
            yield matrix[:whole]
    if len(rest):
        yield rest


def _in_order(
    pool: ThreadPoolExecutor, jobs: int, fmt: str, matrix: npt.NDArray[Any], name: str
) -> Iterator[tuple[Bytes, Bytes]]:
    """Slices of a matrix packed, a few at a time, so that no more than these are in memory."""
    together = DType(fmt).rows_together
    step = max(1, SLICE // max(1, matrix.shape[1]) // together) * together
    begins = range(0, len(matrix), step)

    def one(begin: int) -> tuple[Bytes, Bytes]:
        return _pack_slice(fmt, np.ascontiguousarray(matrix[begin : begin + step], np.float32), name)

    for group in range(0, len(begins), jobs):
        yield from pool.map(one, begins[group : group + jobs])


def pack(fmt: str, values: npt.NDArray[Any]) -> Bytes:
    """A whole tensor packed (tests and small tensors)."""
    return np.concatenate([*pack_parts(fmt, values.shape, [values]), np.zeros(0, np.uint8)])


def unpack(fmt: str, raw: Bytes, shape: tuple[int, ...]) -> Floats:
    """The numbers that a packed tensor stands for, as float32."""
    rows, columns = matrix_shape(shape)
    if fmt == "f32":
        return raw.view(np.float32).reshape(shape)
    if fmt == "bf16":
        return from_bf16(raw.view(np.uint16)).reshape(shape)
    data, at = raw[: rows * row_bytes(fmt, columns)], scales_offset(fmt, rows, columns)
    if fmt == "bf16c":
        return unpack_rows(data, raw[at:].view(np.float32), columns).reshape(shape)
    if fmt == "q8i":
        together = DType(fmt).rows_together
        data = data.reshape(rows // together, -1, together, 4).swapaxes(1, 2).reshape(-1)
    if fmt in ("q8", "q8i"):
        q = data.view(np.int8).reshape(rows, -1)[:, :columns].astype(np.float32)
        return (q * raw[at:].view(np.float32)[:, None]).reshape(shape)
    nibbles = data.reshape(-1, GROUP // 2)
    q = np.concatenate([nibbles & 15, nibbles >> 4], -1).astype(np.float32) - 8
    values = q * raw[at:].view(np.float16).astype(np.float32)[:, None]
    return values.reshape(rows, -1)[:, :columns].reshape(shape)
