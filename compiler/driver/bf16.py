"""bfloat16, and bf16c: bfloat16 in 12 bits without loss (codegen/cpu/kernels/pangu_quant.h has the layout).

Most weights of a row lie within 2^14 of its largest one, so few bits tell their exponents. The others, as many as a row
may list, are kept whole behind it. `compresses` says whether all rows of a tensor are so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from pangu_compile.errors import CompileError
from pangu_compile.ir import DType
from pangu_compile.ir.types import PACKED_UNIT, PACKED_UNIT_BYTES, packed_row_bytes

Bytes = npt.NDArray[np.uint8]
Bits = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]

WINDOW = 14  # exponents below and with a row's largest one, which is stored as 127, that the format can name
LEAST = 56  # the upper seven bits of an exponent are stored less this; 0 is zero
SLICE = 1 << 20  # elements that are looked at at a time
SPECIAL = 255  # the exponent of infinities and NaN
BLOCK = 32
FOUR = DType.bf16c.rows_together
_PLACE = np.arange(BLOCK)
PLACE = _PLACE // 16 * 8 + _PLACE % 4 * 2 + _PLACE // 8 % 2 + _PLACE // 4 % 2 * 16  # where column c of a block lies
COLUMN = np.argsort(PLACE)


def to_bf16(values: Floats) -> Bits:
    """float32 to the nearest bfloat16 (ties to even), as its bits. NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def from_bf16(bits: Bits) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def listed_weights(columns: int) -> int:
    """How many weights below its window a row of bf16c may list."""
    return -(-columns // PACKED_UNIT)


Mask = npt.NDArray[np.bool_]


def _below(bits: Bits) -> tuple[Bytes, Mask, Mask, npt.NDArray[np.int64]]:
    """Of bf16 rows [R, I]: exponents, which weights are zero or below their row's window, those of them that are not zero and so
    must be listed, and the rows' largest exponents."""
    exponents = (bits >> 7 & 0xFF).astype(np.uint8)
    top = exponents.max(-1, initial=1).astype(np.int64)
    below = (exponents <= (top - WINDOW)[:, None]) | (exponents == 0)
    return exponents, below, below & (bits & 0x7FFF != 0), top


def _fits(rows: Floats) -> bool:
    _, _, listed, top = _below(to_bf16(rows))
    return bool(top.max(initial=0) < SPECIAL and listed.sum(-1).max(initial=0) <= listed_weights(rows.shape[1]))


def compresses(columns: int, parts: Iterable[npt.NDArray[Any]], jobs: int = 1) -> bool:
    """Can bf16c hold a tensor whose rows of `columns` weights come in pieces? `jobs` threads look at slices."""
    step = max(1, SLICE // max(1, columns))
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for part in parts:
            rows = part.reshape(-1, columns)
            begins = range(0, len(rows), step)
            if not all(pool.map(lambda at, r=rows: _fits(np.asarray(r[at : at + step], np.float32)), begins)):
                return False
    return True


def compression(parts: Callable[[str], Iterable[npt.NDArray[Any]]], jobs: int) -> Callable[[str], bool]:
    """`compresses` for weights by name, of which `parts` gives the pieces: whole rows of the last axis."""

    def one(name: str) -> bool:
        pieces = iter(parts(name))
        first = next(pieces)
        return compresses(first.shape[-1], chain((first,), pieces), jobs)

    return one


def pack_rows(rows: Floats, name: str) -> tuple[Bytes, Floats]:
    """[R, I] -> (rows as stored, fours together; a scale each). R is a multiple of four.

    Raises:
        CompileError: a row does not fit; `compresses` would have said so.
    """
    count, columns = rows.shape
    units = listed_weights(columns)
    bits = np.pad(to_bf16(rows), ((0, 0), (0, -columns % PACKED_UNIT)))
    exponents, below, outside, top = _below(bits)
    places, at = np.nonzero(outside)
    listed = np.bincount(places, minlength=count)
    if top.max(initial=0) == SPECIAL or listed.max(initial=0) > units:
        raise CompileError(f"weight {name} does not fit into 12 bits any more; has the checkpoint changed? build again")
    scaled = exponents + (127 - top)[:, None]
    codes = np.where(below, 0, bits >> 12 & 8 | (scaled >> 1) - LEAST).astype(np.uint8)
    bytes_ = np.where(below, 0, (scaled & 1) << 7 | bits & 0x7F).astype(np.uint8)
    shape = (count, units, PACKED_UNIT // BLOCK, BLOCK)
    bytes_, codes = bytes_.reshape(shape)[..., COLUMN], codes.reshape(shape)[..., COLUMN]
    pairs = codes[..., : BLOCK // 2] | codes[..., BLOCK // 2 :] << 4
    parts = np.concatenate([bytes_.reshape(count, units, -1), pairs.reshape(count, units, -1)], -1)
    tails = np.zeros((count, packed_row_bytes(DType.bf16c, columns) - units * PACKED_UNIT_BYTES), np.uint8)
    tails[:, :4] = listed.astype("<u4")[:, None].view(np.uint8)
    nth = np.arange(len(places)) - np.repeat(np.cumsum(listed) - listed, listed)
    entry = np.stack([at.astype("<u2"), bits[places, at].astype("<u2")], -1).view(np.uint8)
    tails[places[:, None], 4 + 4 * nth[:, None] + np.arange(4)] = entry
    fours = parts.reshape(-1, FOUR, units, PACKED_UNIT_BYTES).swapaxes(1, 2).reshape(count // FOUR, -1)
    stored = np.concatenate([fours, tails.reshape(count // FOUR, -1)], -1)
    return stored.reshape(-1), np.ldexp(np.float32(1), top - 127).astype(np.float32)


def unpack_rows(stored: Bytes, scales: Floats, columns: int) -> Floats:
    """The weights [R, columns] of rows as stored."""
    count, units = len(scales), listed_weights(columns)
    fours, whole = stored.reshape(count // FOUR, -1), FOUR * units * PACKED_UNIT_BYTES
    parts = fours[:, :whole].reshape(-1, units, FOUR, PACKED_UNIT_BYTES).swapaxes(1, 2).reshape(count, units, -1)
    tails = fours[:, whole:].reshape(count, -1)
    bytes_ = parts[..., :PACKED_UNIT].reshape(count, -1, BLOCK)[..., PLACE].astype(np.uint16)
    pairs = parts[..., PACKED_UNIT:].reshape(count, -1, BLOCK // 2)
    codes = np.concatenate([pairs & 15, pairs >> 4], -1)[..., PLACE].astype(np.uint16)
    upper = codes & 7
    bits = (codes & 8) << 12 | np.where(upper > 0, upper + LEAST, 0).astype(np.uint16) << 8 | bytes_
    values: Floats = from_bf16(bits.astype(np.uint16)).reshape(count, -1)[:, :columns] * scales[:, None]
    listed = np.ascontiguousarray(tails[:, :4]).view("<u4")[:, 0]
    entries = np.ascontiguousarray(tails[:, 4 : 4 + 4 * units]).view("<u2").reshape(count, units, 2)
    rows, nth = np.nonzero(np.arange(units) < listed[:, None])
    values[rows, entries[rows, nth, 0]] = from_bf16(entries[rows, nth, 1])
    return values
