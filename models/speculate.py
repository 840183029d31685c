"""The programs `speculate` and `speculate_sampled`: the MTP heads' drafts, one step of the trunk on them, and acceptance, as one
graph.

N positions are in the trunk's states when a call begins (`start`), and the token of position N is known but not yet in.
The call before held the last T of those positions as new ones: the heads' rows N - T .. N - 1 read tokens that were only
drafts then, so every head begins at row N - T again. Head j (of K) computes, with x_0 the trunk's hidden rows,

    x_j[p] = block_j(token[p + 1], x_{j-1}[p] for j = 1, x_{j-1}[p - 1] for j > 1)    p = N - T .. N + j - 2
    d_j    = argmax of its logits at the last of them: the draft of position N + j

where the tokens of positions N + 1 .. N + j - 1 are d_1 .. d_{j-1}. Rows up to N - 1 have read confirmed tokens alone
and stand; the j - 1 later ones are written too, and written again by the next call, whatever becomes of the drafts. The row
x_{j-1}[N - T - 1] is of the call before: it is the carry row of level j - 1.

The trunk then runs on [token N, d_1 .. d_K]. Its argmax after each of them is compared with the next draft: what precedes
the first difference is accepted, and one token of the trunk's own follows. The rows of rejected drafts stay in the states
and are masked by position, since the next call starts at `length`.

`speculate_sampled` draws each draft from its head's filtered distribution, and accepts by the rejection rule (sampling.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .config import OpenPanguConfig
from .program_spec import ProgramSpec
from .programs import SAMPLED_STEP, Draft, Step, canonical_names
from .sampling import Filter, accept_sampled, draw

TOKENS = 7  # example of T: arbitrary, and unlike other sizes
SETTINGS = 5  # inputs of a sampled step: temperature, top_k, top_p, draft_uniform, uniform


def accept(own: Tensor, drafts: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Longest prefix of drafts [K] that equals the trunk's own tokens [K + 1].

    Returns:
        accepted i64[], tokens i64[K + 1] (accepted drafts, one token of the trunk's own, then -1), length i64[].
    """
    count = drafts.shape[0]
    order = torch.arange(count, device=own.device)
    accepted = torch.where(own[:count] == drafts, count, order).amin(0)
    kept = torch.arange(count + 1, device=own.device) <= accepted
    return accepted, torch.where(kept, own, -1), start + accepted + 1


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenation along the first axis; one part is itself, not a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class Greedy:
    """The largest logit, always."""

    def draft(self, logits: Tensor) -> Tensor:
        """Token i64[1] of logits[1, V]."""
        return torch.argmax(logits, -1)

    def verify(self, logits: Tensor, drafts: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `accept` gives for the trunk's logits[K + 1, V]."""
        return accept(torch.argmax(logits, -1), drafts, start)


class Sampled:
    """Draws from filtered distributions, and keeps those of the drafts for the verification.

    draft_uniform: f64[K], one for each draft. uniform: f64[K + 1], for the verification.
    """

    def __init__(self, temperature: Tensor, top_k: Tensor, top_p: Tensor, draft_uniform: Tensor, uniform: Tensor):
        self.filter, self.draft_uniform, self.uniform = Filter(temperature, top_k, top_p), draft_uniform, uniform
        self.proposed: list[Tensor] = []

    def draft(self, logits: Tensor) -> Tensor:
        own, probs = len(self.proposed), self.filter.distribution(logits)
        self.proposed.append(probs)
        return draw(probs, self.draft_uniform[own : own + 1])

    def verify(self, logits: Tensor, drafts: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return accept_sampled(self.filter.distribution(logits), joined(self.proposed), drafts, self.uniform, start)


class Speculate(nn.Module):
    """speculate(tokens[T], hidden[T, H], [carry[K-1, H]], start, *states) ->
    (accepted, tokens[K+1], length, hidden[K+1, H], [levels[K-1, T, H]], *states).

    tokens: of positions N - T + 1 .. N; hidden: the trunk's rows N - T .. N - 1; carry: row N - T - 1 of the heads 1 .. K - 1
    (absent where K is 1). levels: the confirmed rows N - T .. N - 1 of those heads, the last of which is the next carry row.
    States: the trunk's, then each head's. Needs N - T >= K - 1, so that every head's rows exist.
    sampled: temperature f32[], top_k i64[], top_p f32[], draft_uniform f64[K] and uniform f64[K + 1] follow `start`.
    """

    def __init__(self, step: Step, drafts: Sequence[Draft], sampled: bool = False):
        super().__init__()
        self.step, self.drafts, self.sampled = step, nn.ModuleList(drafts), sampled
        self.specs = [*step.specs, *(group for draft in drafts for group in draft.specs)]

    def forward(self, tokens: Tensor, hidden: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        heads = len(self.drafts)
        carry, (start, *rest_) = (rest[0], rest[1:]) if heads > 1 else (None, rest)
        choice = Sampled(*rest_[:SETTINGS]) if self.sampled else Greedy()
        states = rest_[SETTINGS:] if self.sampled else rest_
        trunk_count = sum(len(group) for group in self.step.specs)
        drafts, levels, head_states = self._propose(tokens, hidden, carry, start, states[trunk_count:], choice)
        fed = torch.cat([tokens[-1:], drafts])
        after, *trunk_states = self.step.trunk(fed, start, states[:trunk_count], "step.")
        accepted, chosen, length = choice.verify(self.step.lm.logits_from_hidden(after), drafts, start)
        outputs = [accepted, chosen, length, after]
        if levels:
            outputs.append(joined(levels))
        return (*outputs, *trunk_states, *head_states)

    def _propose(
        self, tokens: Tensor, hidden: Tensor, carry: Tensor | None, start: Tensor, states: Sequence[Tensor],
        choice: Greedy | Sampled,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:  # fmt: skip
        """Drafts i64[K], the confirmed rows of the heads below the last, and the heads' new states."""
        confirmed = tokens.shape[0]
        drafts: list[Tensor] = []
        levels: list[Tensor] = []
        new_states: list[Tensor] = []
        below, at = hidden, 0
        for j, draft in enumerate(self.drafts, 1):
            assert isinstance(draft, Draft)
            own = states[at : at + len(draft.specs[0])]
            at += len(own)
            first = start - (confirmed + j - 1)  # row N - T in the head's own count
            x, *updated = draft.outputs(joined([tokens, *drafts]), below, first, own, f"drafts.{j - 1}.")
            drafts.append(choice.draft(draft.lm.mtp_logits(j, x[-1:])))
            new_states += updated
            if j < len(self.drafts):
                assert carry is not None
                levels.append(x[:confirmed][None])
                below = torch.cat([carry[j - 1 : j], x])
        return joined(drafts), levels, new_states


def speculate_spec(name: str, step: Step, drafts: Sequence[Draft], config: OpenPanguConfig, device: str) -> ProgramSpec:
    """The program over modules that are programs of their own: their layers are traced only once."""
    heads, width, sampled = len(drafts), config.hidden_size, name == SAMPLED_STEP
    where: dict[str, Any] = {"device": device}
    module = Speculate(step, drafts, sampled)
    inputs: list[tuple[str, Tensor, str | None]] = [
        ("tokens", torch.zeros(TOKENS, dtype=torch.long, **where), "T"),
        ("hidden", torch.zeros(TOKENS, width, **where), "T"),
        ("carry", torch.zeros(heads - 1, width, **where), None),
        ("start", torch.zeros((), dtype=torch.long, **where), None),
    ]
    outputs = ["accepted", "tokens", "length", "hidden", "levels"]
    if heads == 1:
        del inputs[2], outputs[4]
    if sampled:
        inputs += [
            ("temperature", torch.zeros((), **where), None),
            ("top_k", torch.zeros((), dtype=torch.long, **where), None),
            ("top_p", torch.zeros((), **where), None),
            ("draft_uniform", torch.zeros(heads, dtype=torch.float64, **where), None),
            ("uniform", torch.zeros(heads + 1, dtype=torch.float64, **where), None),
        ]
    # A head's append caches hold its rows before N - T: that many of its own count.
    cached = {j: f"S - T - {j - 1}" for j in range(1, heads + 1)}
    states = tuple(spec for group in module.specs for spec in group)
    limits = {"T": heads + 1}  # what a step leaves behind
    names = canonical_names(module, step.lm)
    return ProgramSpec(name, module, tuple(inputs), states, tuple(outputs), names, cached=cached, limits=limits)
