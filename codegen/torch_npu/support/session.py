"""Sessions of a generated program: states, prefill, decoding, and generation with drafts of the MTP heads.

The bookkeeping is that of the C++ runtime, so the same model gives the same tokens: positions count what is held; undoing
rejected drafts sets a length back; head j's row i is position p = i + j - 1 and needs the token at p + 1.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pangu_blocks import AppendCache
from safetensors import safe_open
from torch import Tensor

F64 = torch.float64


@dataclass(frozen=True)
class State:
    """One state: an append cache (rows None), else a ring of `rows`. owner 0 is the trunk, j the MTP head j.

    split, prefix, sinks: see AppendCache; the rows of weight `sinks` come in front.
    """

    name: str
    width: int
    rows: int | None
    owner: int
    split: int = 0
    prefix: int = 0
    sinks: str | None = None


@dataclass(frozen=True)
class Description:
    """What a generated program says of itself."""

    chip: str
    dtype: torch.dtype
    simulated: bool
    root: Path
    states: tuple[State, ...]
    programs: dict[str, Callable[..., Any]]
    vocab_size: int
    hidden_size: int
    num_drafts: int
    max_context: int
    max_chunk: int
    stop_tokens: list[int]

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.simulated else "npu")


class Weights:
    """Tensors of weights.safetensors by name, loaded when first asked for and kept on the device.

    wide: those that are stored in 16 bits become float32, which the program computes in.
    """

    def __init__(self, path: Path, device: torch.device, wide: bool = False):
        self._file = safe_open(str(path), framework="pt")
        self._device, self._wide, self._loaded = device, wide, dict[str, Tensor]()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._loaded:
            tensor = self._file.get_tensor(name).to(self._device)
            self._loaded[name] = tensor.float() if self._wide and tensor.dtype is torch.bfloat16 else tensor
        return self._loaded[name]


class States:
    """The states of one session, by name."""

    def __init__(self, description: Description, weights: Weights, context: int):
        self.rings: dict[str, Tensor] = {}
        self.caches: dict[str, AppendCache] = {}
        self._owners: dict[int, list[AppendCache]] = {}
        device, dtype = description.device, description.dtype
        for state in description.states:
            if state.rows is not None:
                self.rings[state.name] = torch.zeros(state.rows, state.width, dtype=dtype, device=device)
                continue
            cache = AppendCache(context, state.width, dtype, device, state.split, state.prefix)
            if state.sinks is not None:
                cache.set_prefix(weights[state.sinks])
            self.caches[state.name] = cache
            self._owners.setdefault(state.owner, []).append(cache)

    def __getitem__(self, name: str) -> Tensor:
        return self.rings[name]

    def cache(self, name: str) -> AppendCache:
        return self.caches[name]

    def set_length(self, owner: int, length: int) -> None:
        """How many rows of an owner's append caches count."""
        for cache in self._owners.get(owner, ()):
            cache.length = length


@dataclass(frozen=True)
class Sampling:
    """temperature 0: the likeliest token. top_k 0 and top_p 1 filter nothing."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


class Random:
    """Counter-based uniform numbers (splitmix64)."""

    def __init__(self, seed: int):
        self._seed, self._counter = seed, 0

    def uniform(self) -> float:
        mask = (1 << 64) - 1
        self._counter += 1
        z = (self._seed + 0x9E3779B97F4A7C15 * self._counter) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return float((z ^ (z >> 31)) >> 11) * 2.0**-53


def draw(weights: Tensor, uniform: float) -> int:
    """Index drawn with these weights f64[V]; uniform is in [0, 1)."""
    seen = torch.cumsum(weights, 0)
    positive = weights > 0
    above = ((uniform * seen[-1] < seen) & positive).nonzero()
    return int((above if len(above) else positive.nonzero()[-1:])[0])


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities f64[V]: temperature, then top-k, then top-p; what is filtered out gets 0."""
    x = logits.to("cpu", F64)
    p = torch.exp((x - x.max()) / sampling.temperature)
    kept, limited = len(p), 0 < sampling.top_k < len(p)
    if limited or sampling.top_p < 1:
        order = torch.sort(p, descending=True, stable=True).indices
        kept = sampling.top_k if limited else kept
        if sampling.top_p < 1:
            seen = torch.cumsum(p[order[:kept]], 0)
            kept = 1 + int((seen[:-1] < sampling.top_p * seen[-1]).sum())
        p[order[kept:]] = 0
    return p / torch.cumsum(p, 0)[-1]


@dataclass
class Stats:
    """Of one generation."""

    prompt_tokens: int = 0
    new_tokens: int = 0
    steps: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        speed = self.new_tokens / self.decode_seconds if self.decode_seconds else None
        return {**self.__dict__, "tokens_per_second": speed}


class Session:
    """One sequence."""

    def __init__(self, description: Description, weights: Weights, context: int | None = None, speculate: bool = True):
        self.d, self.weights = description, weights
        self.context = context or description.max_context
        if not 0 < self.context <= description.max_context:
            raise ValueError(f"context {self.context}: the program was built for at most {description.max_context}")
        self.heads = description.num_drafts if speculate else 0
        self.states = States(description, weights, self.context)
        self.tokens: list[int] = []
        self.head_rows = [0] * (self.heads + 1)
        # Hidden rows of every level below the last head: the trunk's, then each head's; position p is row p % history.
        self.history = 2 * description.max_chunk + 4 * (self.heads + 1)
        self.hidden = [torch.zeros(self.history, description.hidden_size, dtype=description.dtype, device=description.device)
                       for _ in range(self.heads)]  # fmt: skip

    @property
    def length(self) -> int:
        return len(self.tokens)

    def prefill(self, tokens: Sequence[int], all_logits: bool = False) -> Tensor:
        """Logits f32 [V] after the last token, or [len(tokens), V]."""
        self._check(tokens)
        parts = []
        for at in range(0, len(tokens), self.d.max_chunk):
            part = tokens[at : at + self.d.max_chunk]
            last = at + len(part) == len(tokens)
            rows = list(range(len(part))) if all_logits else [len(part) - 1] if last else []
            parts.append(self._step(part, rows))
            self._flush_heads()
        logits = torch.cat(parts)
        return logits if all_logits else logits[-1]

    def decode(self, token: int) -> Tensor:
        """Logits f32 [V] after one more token."""
        return self.prefill([token])

    def generate(
        self, tokens: Sequence[int], max_new_tokens: int, sampling: Sampling | None = None, speculate: bool = True,
        stop_tokens: Sequence[int] = (), drafts: int | None = None,
    ) -> Iterator[int]:  # fmt: skip
        """New tokens as they come; `stats` is complete when they end. drafts: at most that many in a step (None: one a head)."""
        if drafts is not None and not 1 <= drafts <= self.heads:
            heads = f"give 1 to {self.heads}" if self.heads else "this session has no draft heads"
            raise ValueError(f"drafts is {drafts}; {heads}")
        drafts = (drafts or self.heads) if speculate else 0
        sampling, begin = sampling or Sampling(), time.perf_counter()
        random, self.stats = Random(sampling.seed), Stats(prompt_tokens=len(tokens))
        self.stats.drafted, self.stats.accepted = [0] * self.heads, [0] * self.heads
        pending = self._choose(self.prefill(tokens), sampling, random.uniform() if sampling.temperature > 0 else 0.0)
        self.stats.prefill_seconds = time.perf_counter() - begin
        if max_new_tokens <= 0:
            return
        begin, fresh = time.perf_counter(), [pending]
        start = self.length - 1
        while True:
            for i, token in enumerate(fresh):
                self.stats.new_tokens += 1
                self.stats.decode_seconds = time.perf_counter() - begin
                ends = self.stats.new_tokens >= max_new_tokens or token in stop_tokens
                if ends:
                    self._rollback(start + 1 + i)
                yield token
                if ends:
                    return
            pending, start = fresh[-1], self.length
            fresh = self._advance(pending, max_new_tokens, sampling, random, drafts)

    def _advance(self, pending: int, max_new_tokens: int, sampling: Sampling, random: Random, drafts: int) -> list[int]:
        """One run of the trunk on the pending token and its drafts: the tokens that follow."""
        if self.length >= self.context:
            raise ValueError(f"context full: {self.context} positions")
        room = (self.context - self.length - 1, max_new_tokens - self.stats.new_tokens - 1, self.d.max_chunk - 1)
        count = min(drafts, *room)
        # As many numbers whatever becomes of the drafts: as the runtime does, so that the same seed gives the same tokens.
        uniform = [random.uniform() if sampling.temperature > 0 else 0.0 for _ in range(2 * count + 1)]
        tokens = self._verify(pending, self._propose(pending, count, sampling, uniform), sampling, uniform[count:])
        self.stats.steps += 1
        for i in range(count):
            self.stats.drafted[i] += 1
            self.stats.accepted[i] += i + 1 < len(tokens)
        self._flush_heads()
        return tokens

    # The trunk.

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.int64, device=self.d.device)

    def _check(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise ValueError("no tokens given")
        bad = [t for t in tokens if not 0 <= t < self.d.vocab_size]
        if bad:
            raise ValueError(f"token {bad[0]} is outside the vocabulary of {self.d.vocab_size}")
        if self.length + len(tokens) > self.context:
            raise ValueError(f"context full: {self.length} tokens held and {len(tokens)} more do not fit in {self.context}")

    def _step(self, tokens: Sequence[int], rows: Sequence[int]) -> Tensor:
        start = self.length
        self.states.set_length(0, start)
        with torch.no_grad():
            logits, hidden = self.d.programs["step"](
                self.weights, self.states, self._tensor(tokens), start, self._tensor(rows)
            )
        self.tokens.extend(tokens)
        if self.heads:
            self._store(0, start, hidden)
        return logits.float()

    # The heads.

    def _store(self, level: int, first: int, rows: Tensor) -> None:
        at = torch.arange(first, first + rows.shape[0], device=rows.device) % self.history
        self.hidden[level].index_copy_(0, at, rows)

    def _load(self, level: int, first: int, count: int) -> Tensor:
        at = torch.arange(first, first + count, device=self.d.device) % self.history
        return self.hidden[level].index_select(0, at)

    def _feed_head(self, head: int, end: int, extra: Sequence[int], wanted: bool) -> Tensor | None:
        """Bring head `head` up to position `end`; tokens after the confirmed ones are `extra`. Logits of `end` if wanted."""
        logits = None
        while (first := self.head_rows[head] + head - 1) <= end:
            start, count = self.head_rows[head], min(self.d.max_chunk, end + 1 - first)
            known = [*self.tokens[first + 1 : first + 1 + count]]
            known += extra[first + 1 + len(known) - self.length : first + 1 + count - self.length]
            below = self._load(head - 1, first if head == 1 else first - 1, count)
            rows = [count - 1] if wanted and first + count == end + 1 else []
            self.states.set_length(head, start)
            with torch.no_grad():
                logits, hidden = self.d.programs[f"draft_{head}"](
                    self.weights, self.states, self._tensor(known), below, start, self._tensor(rows)
                )
            if head < self.heads:
                self._store(head, first, hidden)
            self.head_rows[head] += count
        return logits[0].float() if wanted and logits is not None else None

    def _flush_heads(self) -> None:
        """Let the heads follow once a whole chunk is waiting, before the hidden rows that they need are overwritten."""
        ends = [self.head_rows[head] + head - 1 for head in range(1, self.heads + 1)]
        if ends and self.length - min(*ends, self.length) >= self.d.max_chunk:
            for head in range(1, self.heads + 1):
                self._feed_head(head, self.length - 2, [], False)

    # Drafts and their verification.

    def _choose(self, logits: Tensor, sampling: Sampling, uniform: float) -> int:
        if not bool(torch.isfinite(logits.max())) or bool(torch.isnan(logits).any()):
            raise ValueError(f"the logits after {self.length} tokens are not finite")
        if sampling.temperature <= 0:
            return int(torch.argmax(logits))
        return draw(distribution(logits, sampling), uniform)

    def _propose(
        self, pending: int, count: int, sampling: Sampling, uniform: Sequence[float]
    ) -> list[tuple[int, Tensor | None]]:  # fmt: skip
        """Drafts that follow the pending token, with the distribution that each was drawn from. uniform: one for each draft."""
        drafts: list[tuple[int, Tensor | None]] = []
        extra = [pending]
        for head in range(1, count + 1):
            logits = self._feed_head(head, self.length + head - 2, extra, True)
            assert logits is not None
            if sampling.temperature <= 0:
                drafts.append((self._choose(logits, sampling, 0.0), None))
            else:
                q = distribution(logits, sampling)
                drafts.append((draw(q, uniform[head - 1]), q))
            extra.append(drafts[-1][0])
        return drafts

    def _verify(
        self, pending: int, drafts: Sequence[tuple[int, Tensor | None]], sampling: Sampling, uniform: Sequence[float]
    ) -> list[int]:
        """The accepted drafts and one token of the trunk's own; the states then hold the pending token and those drafts.

        uniform: read in order, one for each draft that is looked at, one for the draw.
        """
        start, result = self.length, list[int]()
        logits = self._step([pending, *(token for token, _ in drafts)], range(len(drafts) + 1))
        for i, (row, (guess, q)) in enumerate(zip(logits, drafts, strict=False)):
            if q is None:
                result.append(self._choose(row, sampling, 0.0))
                if result[-1] != guess:
                    break
                continue
            p = distribution(row, sampling)
            if uniform[i] * float(q[guess]) < float(p[guess]):
                result.append(guess)
                continue
            rest = (p - q).clamp(min=0)
            result.append(draw(rest if bool(rest.any()) else p, uniform[i + 1]))
            break
        else:
            result.append(self._choose(logits[-1], sampling, uniform[len(drafts)]))
        self._rollback(start + len(result))
        return result

    def _rollback(self, length: int) -> None:
        """Forget every row from `length` on; nothing is copied."""
        del self.tokens[length:]
        for head in range(1, self.heads + 1):
            self.head_rows[head] = max(0, min(length - head, self.head_rows[head]))


def open_session(description: Description, context: int | None = None, speculate: bool = True) -> Session:
    """A session on the artifact's own weights."""
    weights = Weights(description.root / "weights.safetensors", description.device, description.dtype is torch.float32)
    return Session(description, weights, context, speculate)


def main(description: Description) -> int:
    """Command line of a generated program."""
    parser = argparse.ArgumentParser(description="Generate tokens with this artifact.")
    parser.add_argument("--tokens", required=True, help="prompt as token ids: 1,2,3")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drafts", type=int, help="tokens drafted in a step, at most [as many as there are heads]")
    parser.add_argument("--no-speculate", action="store_true")
    args = parser.parse_args()
    prompt = [int(t) for t in args.tokens.split(",")]
    session = open_session(description, speculate=not args.no_speculate)
    sampling = Sampling(args.temperature, args.top_p, args.top_k, args.seed)
    tokens = list(
        session.generate(prompt, args.max_new_tokens, sampling, not args.no_speculate, description.stop_tokens, args.drafts)
    )
    where = "simulated: CPU reference implementations of the operators" if description.simulated else description.chip
    print(json.dumps({"prompt_tokens": prompt, "tokens": tokens, "stats": session.stats.record(), "ran": where}))
    return 0
