"""Step programs called as decoding calls them: chunks of any size, and rejected rows that are taken back.

A rejected row is undone by setting the length back: append states are cut, rings keep what was written. That must
leave no trace, also where the rejected rows have overwritten the oldest rows of a ring.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from pangu_compile.models.config import OpenPanguConfig  # noqa: E402
from pangu_compile.models.loading import empty_model  # noqa: E402
from pangu_compile.models.program_spec import ProgramSpec  # noqa: E402
from pangu_compile.models.programs import build_programs  # noqa: E402
from pangu_compile.models.random_checkpoint import random_config, random_tensors  # noqa: E402

LENGTH = 80  # longer than every window (40) and every index_topk (64) of random_config
SEEDS = range(1, 25, 2)


def call(spec: ProgramSpec, feeds: Sequence[Any], start: int, states: Sequence[Any]) -> tuple[Any, Any, list[Any]]:
    """One call on all rows of `feeds`: their logits, their hidden rows, the new states."""
    rows = torch.arange(len(feeds[0]))
    with torch.no_grad():
        logits, hidden, *states = spec.module(*feeds, torch.tensor(start), rows, *states)
    return logits, hidden, list(states)


def run(spec: ProgramSpec, feeds: Sequence[Any], slack: int, chance: Random) -> tuple[Any, Any]:
    """Logits and hidden of every row of `feeds`; each call carries up to `slack` wrong rows that are then rejected."""
    states: list[Any] = [torch.zeros(s.rows or 0, s.width, dtype=torch.float64) for s in spec.states]
    kept, at = [], 0
    while at < len(feeds[0]):
        size = min(chance.choice([1, 1, 2, 3, 7, 20, 45]), len(feeds[0]) - at)
        wrong = chance.randint(0, slack)
        args = [torch.cat([feed[at : at + size], feed.roll(5, 0)[:wrong]]) for feed in feeds]
        logits, hidden, states = call(spec, args, at, states)
        kept.append((logits[:size], hidden[:size]))
        at += size
        states = [x if s.rows else x[:at] for s, x in zip(spec.states, states, strict=True)]
    return torch.cat([x for x, _ in kept]), torch.cat([x for _, x in kept])


def make(config: OpenPanguConfig, seed: int) -> tuple[Any, Any, list[Any]]:
    """The model, a prompt [T], and the reference's logits: the trunk's [T, V], then head j's [T - j, V]."""
    torch.set_num_threads(1)
    model = empty_model(config)
    model.load_state_dict({n: v.double() for n, v in random_tensors(config, seed).items()}, assign=True)
    tokens = torch.randint(0, config.vocab_size, (LENGTH,), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        g = model.eval().hidden(tokens[None])
        return model, tokens, [model.logits_from_hidden(g)[0], *(x[0] for x in model.mtp_forward(tokens[None], g))]


@pytest.mark.parametrize("seed", SEEDS)
def test_rejected_rows_leave_no_trace(seed: int) -> None:
    config = random_config(seed)
    model, tokens, expected = make(config, seed)
    chance, slack = Random(seed), config.num_nextn_predict_layers
    trunk, *drafts = build_programs(config, lm=model, steps=())
    got, below = run(trunk, [tokens], slack, chance)
    torch.testing.assert_close(got, expected[0], atol=1e-9, rtol=0)
    for j, draft in enumerate(drafts, 1):
        got, below = run(draft, [tokens[j:], below[: LENGTH - j]], slack, chance)
        torch.testing.assert_close(got, expected[j], atol=1e-9, rtol=0)


def test_the_seeds_cover_what_is_taken_back() -> None:
    """Every kind of layer, in trunk and heads, occurs in a model with drafts: only those ever take rows back."""
    configs = [c for c in map(random_config, SEEDS) if c.num_nextn_predict_layers]
    kinds = {(i >= c.num_hidden_layers, c.attention_kind(i)) for c in configs for i in range(c.num_layers)}
    assert kinds == {(mtp, kind) for mtp in (False, True) for kind in ("dsa", "swa", "dense")}
    assert {c.conv_width for c in configs if c.use_mome} == {2, 3, 4}
    assert {c.q_lora_rank is None for c in configs} == {True, False}


def test_logits_of_some_rows() -> None:
    """`rows` picks logits, in the order asked for; hidden and states are of all rows."""
    config = random_config(5)
    model, tokens, expected = make(config, 5)
    spec = build_programs(config, mtp=False, lm=model)[0]
    states = [torch.zeros(s.rows or 0, s.width, dtype=torch.float64) for s in spec.states]
    with torch.no_grad():
        logits, hidden, *_ = spec.module(tokens, torch.tensor(0), torch.tensor([LENGTH - 1, 3]), *states)
    torch.testing.assert_close(logits, expected[0][[LENGTH - 1, 3]], atol=1e-9, rtol=0)
    assert hidden.shape == (LENGTH, config.hidden_size)


def test_one_row_too_few_is_noticed() -> None:
    """The test itself: with one row more rejected than the slack allows, a ring has lost a row that is needed."""
    config = random_config(next(s for s in SEEDS if random_config(s).use_mome))
    model, tokens, expected = make(config, 1)
    spec = build_programs(config, mtp=False, lm=model)[0]
    states = [torch.zeros(s.rows or 0, s.width, dtype=torch.float64) for s in spec.states]
    slack = config.num_nextn_predict_layers
    _, _, states = call(spec, [torch.cat([tokens[:40], tokens[: slack + 1]])], 0, states)
    states = [x if s.rows else x[:40] for s, x in zip(spec.states, states, strict=True)]
    got, _, _ = call(spec, [tokens[40:41]], 40, states)
    assert (got[0] - expected[0][40]).abs().max() > 1e-6
