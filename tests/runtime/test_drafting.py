"""How many drafts a step makes: the choice against made-up machines, whose best number is known."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from . import fake

HEADS = 3


@dataclass(frozen=True)
class Phase:
    """`steps` steps of a machine: seconds with 0, 1, .. drafts, each depth's acceptance, seconds in which a head follows a row."""

    steps: int
    seconds: tuple[float, ...]
    acceptance: tuple[float, ...]
    following: float = 0

    def rates(self) -> list[float]:
        """Tokens a second for each number of drafts."""
        tokens = [1.0, *(1 + np.cumsum(np.cumprod(self.acceptance)))]
        return [t / s for t, s in zip(tokens, self.seconds, strict=True)]


@dataclass(frozen=True)
class Outcome:
    taken: list[int]
    rate: float


Play = Callable[..., list[Outcome]]  # (phases, session=steps of one)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    binary = tmp_path_factory.mktemp("drafting") / "drafting"
    core = fake.RUNTIME / "core"
    command = ["g++", *fake.FLAGS, "-I", str(core), str(core / "drafting.cpp"), str(Path(__file__).parent / "drafting.cpp")]
    subprocess.run([*command, "-o", str(binary)], check=True)

    def run(phases: Sequence[Phase], session: int = 0) -> list[Outcome]:
        text = "\n".join(" ".join(map(str, (p.steps, p.following, *p.seconds, *p.acceptance))) for p in phases)
        done = subprocess.run([str(binary), str(HEADS), str(session)], input=text, capture_output=True, text=True, check=True)
        rows = [[float(x) for x in line.split()] for line in done.stdout.splitlines()]
        return [Outcome([int(n) for n in row[: HEADS + 1]], row[-2] / row[-1]) for row in rows]

    return run


COSTS = ((1, 1.7, 2.5, 3.5), (1, 1.3, 1.6, 1.9), (1, 1.05, 1.1, 1.15), (1, 3, 4, 5), (0.1, 0.16, 0.3, 0.31))
RATES = ((0.9, 0.9, 0.9), (0.8, 0.6, 0.5), (0.5, 0.5, 0.5), (0.05, 0.0, 0.0), (1.0, 1.0, 1.0), (0.9, 0.1, 0.9))


@pytest.mark.parametrize(("seconds", "acceptance"), list(itertools.product(COSTS, RATES)))
def test_as_fast_as_the_best_number_that_never_changes(
    play: Play, seconds: tuple[float, ...], acceptance: tuple[float, ...]
) -> None:
    """Within 6 % over a long text, and 25 % over a short one, which is mostly spent on trying."""
    short, long = (play([Phase(steps, seconds, acceptance)])[0] for steps in (100, 5000))
    best = max(Phase(1, seconds, acceptance).rates())
    assert long.rate >= 0.94 * best and short.rate >= 0.75 * best


def test_a_number_far_better_than_the_others_is_taken_nearly_always(play: Play) -> None:
    (outcome,) = play([Phase(4000, (1.0, 2.0, 3.0, 4.0), (0.0, 0.0, 0.0))])
    assert outcome.taken[0] >= 3800
    (outcome,) = play([Phase(4000, (1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0))])
    assert outcome.taken[HEADS] >= 3800


def test_another_text_or_a_longer_context_changes_the_number(play: Play) -> None:
    easy, hard = (0.95, 0.95, 0.95), (0.1, 0.1, 0.1)
    seconds = (1.0, 1.3, 1.6, 1.9)
    phases = [Phase(2000, seconds, easy), Phase(2000, seconds, hard), Phase(12000, seconds, easy), Phase(2000, (1, 3, 5, 7), easy)]
    first, second, third, fourth = play(phases)
    assert first.taken[3] > 1800 and second.taken[0] > 1800
    assert third.taken[3] > 6000  # trials have become rare in the second phase
    assert fourth.taken[0] > 1000


@pytest.mark.parametrize(("seconds", "acceptance"), list(itertools.product(COSTS, RATES)))
def test_heads_that_have_to_follow_first(play: Play, seconds: tuple[float, ...], acceptance: tuple[float, ...]) -> None:
    """A trial then costs up to 24 plain steps for each head, so that losers are tried rarely: within 8 % over a long text."""
    (long,) = play([Phase(20000, seconds, acceptance, 0.08 * seconds[0])])
    assert long.rate >= 0.92 * max(Phase(1, seconds, acceptance).rates())


def test_a_session_begins_with_what_others_have_learnt(play: Play) -> None:
    """Sessions of 20 steps, hardly enough for one trial of each number: nearly all make the best one from their first step on."""
    (none,) = play([Phase(4000, (1.0, 2.0, 3.0, 4.0), (0.3, 0.3, 0.3), 0.05)], session=20)
    assert none.taken[0] >= 3850
    (most,) = play([Phase(4000, (1.0, 1.1, 1.2, 1.3), (0.9, 0.9, 0.9), 0.05)], session=20)
    assert most.taken[HEADS] >= 3800
