"""Multi-token prediction: expected tokens a step from the acceptance rates of the draft heads."""

from __future__ import annotations

from collections.abc import Sequence

from pangu_compile.errors import UserError

PUBLISHED = (0.925, 0.892, 0.886)  # teacher-forced acceptance by depth, as published for openPangu-2.0-Flash


def expected_tokens(acceptance: Sequence[float]) -> float:
    """1 + a1 + a1 a2 + ..: draft j counts only where all drafts before it were accepted."""
    total = reached = 1.0
    for rate in acceptance:
        reached *= rate
        total += reached
    return total


def parse_acceptance(text: str) -> tuple[float, ...]:
    """Rates from "0.92,0.89,0.88". UserError names the one that is not a number from 0 to 1."""
    rates = []
    for part in text.split(","):
        try:
            rate = float(part)
        except ValueError:
            raise UserError(f"acceptance {part.strip()!r} is not a number; give rates like 0.92,0.89,0.88") from None
        if not 0.0 <= rate <= 1.0:
            raise UserError(f"acceptance {part.strip()} is not between 0 and 1")
        rates.append(rate)
    return tuple(rates)


def rates_for(heads: int, given: Sequence[float] | None) -> tuple[float, ...]:
    """The rates of a model's heads: those given, or the published ones. UserError where more are given than heads exist."""
    if given is None:
        return PUBLISHED[:heads]
    if len(given) > heads:
        raise UserError(f"acceptance has {len(given)} rates, but the model has {heads} MTP heads")
    return tuple(given)


def source_of(rates: Sequence[float]) -> str:
    """Where rates come from, for people."""
    return "published for openPangu-2.0-Flash" if tuple(rates) == PUBLISHED[: len(rates)] else "given"


def curve(heads: int, steps: int = 20) -> list[tuple[float, float]]:
    """(acceptance, expected tokens a step) with the same rate for every head."""
    return [(i / steps, expected_tokens([i / steps] * heads)) for i in range(steps + 1)]
