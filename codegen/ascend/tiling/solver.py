"""The tiling solver: the most rows whose buffers fit into a memory of a core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

BLOCK = 32  # bytes: what copies and vector instructions align to
REPEAT = 256  # bytes of one vector instruction step
MAX_REPEATS = 255


class TilingError(ValueError):
    """A shape that does not fit the chip. One line: kernel, memory, what is needed and what there is."""


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def align(value: int, to: int) -> int:
    """The next multiple of `to`."""
    return ceil_div(value, to) * to


@dataclass(frozen=True)
class Buffer:
    """A local buffer: `fixed` + rows * `per_row` bytes, `depth` times (2: double buffered)."""

    name: str
    per_row: int = 0
    fixed: int = 0
    depth: int = 1

    def slot(self, rows: int) -> int:
        """Bytes of one of its copies, whole 32-byte blocks."""
        return max(BLOCK, align(self.fixed + rows * self.per_row, BLOCK))


@dataclass(frozen=True)
class Tile:
    """A solution: rows at once, the bytes of one slot of each buffer, and the total that is in use."""

    rows: int
    bytes: Mapping[str, int]
    total: int
    capacity: int


def _total(buffers: Sequence[Buffer], rows: int) -> int:
    return sum(b.depth * b.slot(rows) for b in buffers)


def solve(kernel: str, memory: str, capacity: int, buffers: Sequence[Buffer], limit: int = MAX_REPEATS) -> Tile:
    """The largest number of rows, at most `limit`, whose buffers fit. TilingError where not even one row does."""
    names = [b.name for b in buffers]
    if len(set(names)) != len(names):
        raise ValueError(f"{kernel}: buffers named twice in {names}")
    low, high = 0, max(1, limit)
    while low < high:  # the total grows with the rows
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _total(buffers, middle) <= capacity else (low, middle - 1)
    if low == 0:
        raise TilingError(
            f"{kernel}: one row needs {_total(buffers, 1)} bytes of {memory}, the chip has {capacity}; "
            "split the row before this kernel"
        )
    sizes = MappingProxyType({b.name: b.slot(low) for b in buffers})
    return Tile(low, sizes, _total(buffers, low), capacity)
