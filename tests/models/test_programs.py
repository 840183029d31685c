"""The step programs over explicit states compute what the whole-sequence reference computes, however it is split."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from pangu_compile.models.loading import empty_model  # noqa: E402
from pangu_compile.models.program_spec import ProgramSpec  # noqa: E402
from pangu_compile.models.programs import build_programs  # noqa: E402
from pangu_compile.models.random_checkpoint import random_config, random_tensors  # noqa: E402

LENGTH = 50
SPLITS = ([LENGTH], [1] * LENGTH, [2, 3, 29, 1, 1, 14])


def run(spec: ProgramSpec, feeds: list[Any], split: list[int]) -> tuple[Any, Any]:
    """Logits and hidden of all rows, `split` rows a call (cut where the rows end)."""
    states = [torch.zeros(s.rows or 0, s.width, dtype=torch.float64) for s in spec.states]
    logits, hidden, at = [], [], 0
    for size in split:
        size = min(size, len(feeds[0]) - at)
        if size:
            args = [feed[at : at + size] for feed in feeds]
            with torch.no_grad():
                out, rows, *states = spec.module(*args, torch.tensor(at), torch.arange(size), *states)
            logits.append(out)
            hidden.append(rows)
            at += size
    return torch.cat(logits), torch.cat(hidden)


@pytest.mark.parametrize("seed", range(0, 30, 2))
def test_steps_agree_with_the_reference(seed: int) -> None:
    torch.set_num_threads(1)
    config = random_config(seed)
    model = empty_model(config)
    model.load_state_dict({n: v.double() for n, v in random_tensors(config, seed).items()}, assign=True)
    model.eval()
    tokens = torch.randint(0, config.vocab_size, (LENGTH,), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        g = model.hidden(tokens[None])
        expected = [model.logits_from_hidden(g)[0], *(x[0] for x in model.mtp_forward(tokens[None], g))]
    specs = build_programs(config, lm=model)
    drafts = [f"draft_{j}" for j in range(1, len(expected))]
    assert [s.name for s in specs] == ["step", *drafts, *(["speculate", "speculate_sampled"] if drafts else [])]
    for split in SPLITS:
        got, below = run(specs[0], [tokens], split)
        torch.testing.assert_close(got, expected[0], atol=1e-9, rtol=0)
        for j in range(1, len(expected)):
            got, below = run(specs[j], [tokens[j:], below[: LENGTH - j]], split)
            torch.testing.assert_close(got, expected[j], atol=1e-9, rtol=0)
