"""Arena planning: offsets for buffers with lifetimes, and the check that none overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pangu_compile.ir import IRError

ALIGN = 64


@dataclass(frozen=True)
class Slot:
    """A buffer: written at kernel `first`, last read at kernel `last` (inclusive)."""

    name: str
    nbytes: int
    first: int
    last: int


def align(nbytes: int) -> int:
    return (nbytes + ALIGN - 1) // ALIGN * ALIGN


def place(slots: Sequence[Slot]) -> tuple[dict[str, int], int]:
    """Offsets in bytes and the arena's size: largest first, each at the lowest gap among those alive with it."""
    order = sorted(slots, key=lambda s: (-s.nbytes, s.first, s.name))
    placed: list[tuple[Slot, int]] = []
    for slot in order:
        busy = sorted((at, at + align(o.nbytes)) for o, at in placed if o.first <= slot.last and slot.first <= o.last)
        at = 0
        for begin, end in busy:
            if at + align(slot.nbytes) <= begin:
                break
            at = max(at, end)
        placed.append((slot, at))
    offsets = {slot.name: at for slot, at in placed}
    size = max((at + align(slot.nbytes) for slot, at in placed), default=0)
    check(slots, offsets)
    return offsets, size


def check(slots: Sequence[Slot], offsets: dict[str, int]) -> None:
    """IRError where two buffers that are alive at once share bytes."""
    for i, a in enumerate(slots):
        for b in slots[i + 1 :]:
            alive = a.first <= b.last and b.first <= a.last
            start_a, start_b = offsets[a.name], offsets[b.name]
            if alive and a.nbytes and b.nbytes and start_a < start_b + b.nbytes and start_b < start_a + a.nbytes:
                raise IRError(f"plan: buffers {a.name} and {b.name} overlap while both are alive")


def largest_live(slots: Sequence[Slot]) -> int:
    """Bytes alive at the worst kernel: no plan can be smaller."""
    steps = {s.first for s in slots}
    return max((sum(align(s.nbytes) for s in slots if s.first <= step <= s.last) for step in steps), default=0)
