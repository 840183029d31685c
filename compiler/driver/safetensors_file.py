"""The safetensors format: a strict header reader, exact float32 reads of single tensors, and a page-aligned writer.

The library's own reader maps whole files, and its numpy side has no bf16; here one tensor (or a slice of rows) is read
at a time. Every header is checked completely before anything is read through it.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pangu_compile.errors import UserError

PAGE = 4096
MAX_HEADER = 100_000_000  # the library's own limit
PAD_PREFIX = "__pad_"

ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4,
    "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
FLOAT_DTYPES = ("F32", "F16", "BF16")

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: `offset` counts from the start of `file`."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"{key!r} appears twice")
        table[key] = value
    return table


def _count(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _entry(file: Path, name: str, entry: Any, base: int) -> TensorInfo:
    where = f"{file}: corrupt header: tensor {name}"
    if not isinstance(entry, dict):
        raise UserError(f"{where} is not an object")
    dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if dtype not in ITEM_BYTES:
        raise UserError(f"{where} has the unknown dtype {dtype!r}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise UserError(f"{where} has the bad shape {shape!r}")
    if not (isinstance(span, list) and len(span) == 2 and all(isinstance(n, int) and n >= 0 for n in span)):
        raise UserError(f"{where} has the bad data_offsets {span!r}")
    begin, end = span
    nbytes = _count(shape) * ITEM_BYTES[dtype]
    if end - begin != nbytes:
        raise UserError(f"{where} of shape {shape} and dtype {dtype} needs {nbytes} bytes but has {end - begin}")
    return TensorInfo(name, file, dtype, tuple(shape), base + begin, nbytes)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of one file in the order of their data.

    Raises:
        UserError: the file cannot be read, is truncated, or its header breaks the format; names file and tensor.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            head = stream.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if len(head) < 8 or length > size - 8:
                raise UserError(f"{file}: truncated or not a safetensors file ({size} bytes); download it again")
            if length > MAX_HEADER:
                raise UserError(f"{file}: not a safetensors file (its header would have {length} bytes)")
            text = stream.read(length)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        table = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except ValueError as error:
        raise UserError(f"{file}: corrupt header: {_first_line(error)}") from error
    except RecursionError as error:
        raise UserError(f"{file}: corrupt header: nested too deeply") from error
    if not isinstance(table, dict):
        raise UserError(f"{file}: corrupt header: not a JSON object")
    table.pop("__metadata__", None)
    infos = [_entry(file, name, entry, 8 + length) for name, entry in table.items()]
    infos.sort(key=lambda info: (info.offset, info.nbytes))
    at = 8 + length
    for info in infos:
        if info.offset != at:
            problem = "overlaps the tensor before it" if info.offset < at else "leaves a hole before it"
            raise UserError(f"{file}: corrupt header: tensor {info.name} {problem}")
        at += info.nbytes
    if at > size:
        last = next(info for info in infos if info.offset + info.nbytes > size)
        raise UserError(f"{file}: truncated: tensor {last.name} ends at byte {at} of {size}; download the file again")
    if at < size:
        raise UserError(f"{file}: corrupt: {size - at} bytes follow the last tensor")
    return {info.name: info for info in infos}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_float(info: TensorInfo, begin: int = 0, end: int | None = None) -> FloatArray:
    """Rows begin..end of the first axis (all by default) as float32; f16 and bf16 widen exactly.

    Raises:
        UserError: the dtype is not a float that the compiler reads, or the file became shorter.
    """
    if info.dtype not in FLOAT_DTYPES:
        raise UserError(f"{info.file}: tensor {info.name} has dtype {info.dtype}; expected one of F32, F16, BF16")
    shape, count, skip = info.shape, _count(info.shape), 0
    if shape:
        end = shape[0] if end is None else end
        if not 0 <= begin <= end <= shape[0]:
            raise UserError(f"{info.file}: tensor {info.name}: rows {begin}..{end} are outside 0..{shape[0]}")
        row = _count(shape[1:])
        shape, count, skip = (end - begin, *shape[1:]), (end - begin) * row, begin * row
    item = ITEM_BYTES[info.dtype]
    kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[info.dtype]
    try:
        raw = np.fromfile(info.file, dtype=kind, count=count, offset=info.offset + skip * item)
    except OSError as error:
        raise UserError(f"{info.file}: tensor {info.name} cannot be read: {error.strerror}") from error
    if raw.size != count:
        raise UserError(f"{info.file}: truncated inside tensor {info.name}; download the file again")
    if info.dtype == "BF16":
        wide = raw.astype(np.uint32)
        wide <<= 16
        values: FloatArray = wide.view(np.float32)
    else:
        values = raw.astype(np.float32, copy=False)
    return values.reshape(shape)


@dataclass(frozen=True)
class LayoutEntry:
    """One tensor to write. dtype is safetensors' name; offset counts from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int


class Layout:
    """Places tensors at page boundaries; fillers named __pad_N close the gaps, so the format sees no holes."""

    def __init__(self, tensors: Iterable[tuple[str, str, tuple[int, ...]]]):
        """tensors: (name, safetensors dtype, shape) in the order they shall have in the file."""
        table: dict[str, Any] = {"__metadata__": {"format": "pangu"}}
        placed: list[tuple[str, str, tuple[int, ...], int, int]] = []
        at = 0
        for name, dtype, shape in tensors:
            if name in table or name.startswith(PAD_PREFIX):
                raise ValueError(f"tensor name {name!r} is taken")
            gap = -at % PAGE
            if gap:
                pad = f"{PAD_PREFIX}{len(placed)}"
                table[pad] = {"dtype": "U8", "shape": [gap], "data_offsets": [at, at + gap]}
                at += gap
            nbytes = _count(shape) * ITEM_BYTES[dtype]
            table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + nbytes]}
            placed.append((name, dtype, tuple(shape), nbytes, at))
            at += nbytes
        text = json.dumps(table, separators=(",", ":"), ensure_ascii=True).encode("ascii")
        text += b" " * (-(8 + len(text)) % PAGE)
        self.header = struct.pack("<Q", len(text)) + text
        base = len(self.header)
        self.entries = {n: LayoutEntry(n, d, s, size, base + off) for n, d, s, size, off in placed}
        self.total = base + at

    def offsets(self) -> dict[str, int]:
        """Byte offset of every tensor from the start of the file; each is a multiple of 4096."""
        return {name: entry.offset for name, entry in self.entries.items()}


class LayoutWriter:
    """Streams the tensors of a layout into a file, in order."""

    def __init__(self, layout: Layout, stream: BinaryIO):
        self._layout, self._stream = layout, stream
        self._pending = iter(layout.entries.values())
        stream.write(layout.header)
        self._at = len(layout.header)

    def add(self, name: str, values: npt.NDArray[Any]) -> None:
        """The next tensor; must be the layout's next name with its exact shape and size."""
        entry = next(self._pending)
        if entry.name != name or entry.shape != values.shape or entry.nbytes != values.nbytes:
            raise ValueError(
                f"expected {entry.name} {entry.shape} of {entry.nbytes} bytes,"
                f" got {name} {values.shape} of {values.nbytes}"
            )
        if entry.offset > self._at:
            self._stream.write(b"\0" * (entry.offset - self._at))
        if values.dtype.byteorder == ">":
            values = values.astype(values.dtype.newbyteorder("<"))
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self._stream.write(flat.data)
        self._at = entry.offset + entry.nbytes

    def add_pieces(self, name: str, pieces: Iterable[npt.NDArray[Any]]) -> None:
        """The next tensor's bytes, little-endian, piece by piece; must be the layout's next name with its exact size."""
        entry = next(self._pending)
        if entry.name != name:
            raise ValueError(f"expected {entry.name}, got {name}")
        if entry.offset > self._at:
            self._stream.write(b"\0" * (entry.offset - self._at))
        self._at = entry.offset
        for piece in pieces:
            self._stream.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
            self._at += piece.nbytes
        if self._at != entry.offset + entry.nbytes:
            raise ValueError(f"expected {entry.nbytes} bytes of {name}, got {self._at - entry.offset}")

    def finish(self) -> None:
        """Checks that nothing is missing, and syncs the file."""
        if next(self._pending, None) is not None:
            raise ValueError("not every tensor of the layout was written")
        self._stream.flush()
        os.fsync(self._stream.fileno())
