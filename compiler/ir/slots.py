"""Operators with optional operands name them: attribute `slots` lists the operands present, `results` the results.

A fused operator without, say, a sink simply has no `sinks` among its slots. Both are tuples of names in the order of
the node's operands and results, so that the text form stays readable and nothing depends on a position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from .types import IRError

T = TypeVar("T")


@dataclass(frozen=True)
class Signature:
    """Which operands and results an operator may have: those in `optional` may be left out, the others must be there."""

    slots: tuple[str, ...]
    results: tuple[str, ...]
    optional: frozenset[str] = frozenset()

    def check(self, attrs: Mapping[str, Any]) -> None:
        """IRError unless the node's slots and results are these names, in this order, with nothing required missing."""
        for kind, known in (("slots", self.slots), ("results", self.results)):
            given = attrs[kind]
            if tuple(n for n in known if n in given) != tuple(given):
                raise IRError(f"{kind} {given} are not among {known} in that order")
            missing = [n for n in known if n not in given and n not in self.optional]
            if missing:
                raise IRError(f"{kind} {given} lack {missing}")


def named(attrs: Mapping[str, Any], operands: Sequence[T]) -> dict[str, T]:
    """Operand (or its type, or its array) by slot name. IRError where the counts differ."""
    if len(attrs["slots"]) != len(operands):
        raise IRError(f"{len(operands)} operands for slots {attrs['slots']}")
    return dict(zip(attrs["slots"], operands, strict=True))


def ordered(attrs: Mapping[str, Any], results: Mapping[str, T]) -> list[T]:
    """The node's results in order, picked by name."""
    return [results[name] for name in attrs["results"]]
