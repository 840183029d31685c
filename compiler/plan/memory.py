"""Arena planning: offsets for buffers with lifetimes, and the check that none overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """Offsets in bytes and the arena's size: the best of several orders of placing, none of which is best always."""
    bound = largest_live(slots)
    best: tuple[dict[str, int], int] | None = None
    for key in _ORDERS:
        for tightest in (False, True):
            offsets, size = _place_in_order(sorted(slots, key=key), tightest)
            if best is None or size < best[1]:
                best = offsets, size
            if best[1] <= bound:
                break
    assert best is not None
    check(slots, best[0])
    return best


_ORDERS: tuple[Callable[[Slot], tuple[int | str, ...]], ...] = (
    lambda s: (-s.nbytes, s.first, s.name),
    lambda s: (-s.nbytes * (s.last - s.first + 1), s.first, s.name),
    lambda s: (s.first - s.last, -s.nbytes, s.first, s.name),
    lambda s: (s.first, -s.nbytes, s.name),
    lambda s: (-s.last, -s.nbytes, s.name),
)


def _place_in_order(order: Sequence[Slot], tightest: bool) -> tuple[dict[str, int], int]:
    """Each slot into a gap among those alive with it: the lowest that is large enough, or the tightest."""
    placed: list[tuple[Slot, int]] = []
    size = 0
    for slot in order:
        need = align(slot.nbytes)
        busy = sorted((at, at + align(o.nbytes)) for o, at in placed if o.first <= slot.last and slot.first <= o.last)
        gaps, top = [], 0
        for begin, end in busy:
            if begin - top >= need:
                gaps.append((begin - top, top))
            top = max(top, end)
        if gaps:
            at = min(gaps)[1] if tightest else gaps[0][1]
        else:
            at = top
        placed.append((slot, at))
        size = max(size, at + need)
    return {slot.name: at for slot, at in placed}, size


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
