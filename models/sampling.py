"""Sampling in traceable torch: filtered distributions, draws, and the rejection rule for drafts.

The arithmetic is float64, as in runtime/core/pangu_sampling.h; the operators `sample_token` and `mtp_verify_sampled` of the IR
(compiler/ir/ops/mtp.py) define the same. K drafts, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Filter:
    """How logits become a distribution: temperature f32[], then top_k i64[], then top_p f32[].

    temperature <= 0 puts all on the largest logit; top_k outside 1 .. V-1 and top_p >= 1 filter nothing.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor

    def distribution(self, logits: Tensor) -> Tensor:
        """Probabilities f64[M, V] of logits[M, V]; what is filtered out gets exactly 0."""
        x, width = logits.double(), logits.shape[-1]
        greedy = self.temperature <= 0
        divisor = torch.where(greedy, 1.0, self.temperature.double())
        p = torch.exp((x - x.amax(-1, keepdim=True)) / divisor)
        values, order = torch.sort(p, dim=-1, descending=True, stable=True)
        place = torch.arange(width, device=x.device)
        most = torch.where((self.top_k > 0) & (self.top_k < width), self.top_k, width)
        seen = torch.cumsum(torch.where(place < most, values, 0.0), -1)
        short = (seen < self.top_p.double() * seen[:, -1:]) & (place < most - 1)
        nucleus = short.long().sum(-1, keepdim=True) + 1
        kept = torch.where(self.top_p < 1, nucleus, most)
        rank = torch.sort(order, dim=-1, stable=True)[1]
        p = torch.where(rank < kept, p, 0.0)
        p = p / p.sum(-1, keepdim=True)
        best = torch.argmax(x, -1, keepdim=True)
        return torch.where(greedy, (place == best).double(), p)


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """Index i64[M] drawn with weights f64[M, V] >= 0 (a row's sum is arbitrary and positive) by uniform f64[M] in [0, 1).

    The first whose running sum passes uniform * total; where rounding leaves none, the last that can be drawn.
    """
    seen, width = torch.cumsum(weights, -1), weights.shape[-1]
    place = torch.arange(width, device=weights.device)
    positive = weights > 0
    above = (uniform[:, None] * seen[:, -1:] < seen) & positive
    first = torch.where(above, place, width).amin(-1)
    last = torch.where(positive, place, -1).amax(-1)
    return torch.where(first < width, first, last)


def accept_sampled(
    own: Tensor, proposed: Tensor, drafts: Tensor, uniform: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The rejection rule: the tokens are distributed as if the trunk had drawn them one by one.

    Args:
        own: the trunk's distributions f64[K + 1, V]. proposed: f64[K, V], the ones that drafts i64[K] were drawn from.
        uniform: f64[K + 1], read in order: one for each draft looked at, the next for the draw after them.
    Returns:
        accepted i64[], tokens i64[K + 1] (accepted drafts, the drawn token, then -1), length i64[].
    """
    count, order = drafts.shape[0], torch.arange(drafts.shape[0] + 1, device=drafts.device)
    mine, theirs = (p.gather(1, drafts[:, None])[:, 0] for p in (own[:count], proposed))
    stands = uniform[:count] * theirs < mine
    accepted = torch.where(stands, count, order[:count]).amin(0)
    rest = torch.relu(own[:count] - proposed)
    left = rest.amax(-1, keepdim=True) > 0
    weights = torch.cat([torch.where(left, rest, own[:count]), own[count:]])
    numbers = torch.cat([uniform[1:], uniform[count:]])
    after = draw(weights, numbers)  # every row's: which of them is wanted is known only with the others
    padded = torch.cat([drafts, accepted[None]])  # as long as the others; the last is never taken
    tokens = torch.where(order < accepted, padded, torch.where(order == accepted, after, -1))
    return accepted, tokens, start + accepted + 1
