"""The program `speculate` against the whole-sequence reference: tokens, drafts, rows, and what rejected drafts leave behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from pangu_compile.ir import run_graph, symbol  # noqa: E402
from pangu_compile.models.loading import empty_model  # noqa: E402
from pangu_compile.models.program_spec import ProgramSpec  # noqa: E402
from pangu_compile.models.programs import build_programs  # noqa: E402
from pangu_compile.models.random_checkpoint import random_config, random_tensors  # noqa: E402
from pangu_compile.models.speculate import accept  # noqa: E402
from pangu_compile.trace import trace_programs  # noqa: E402

SEEDS = [s for s in range(60) if random_config(s).num_nextn_predict_layers][:16]
PROMPT, STEPS = 12, 14
F64 = torch.float64


def make(seed: int, vocab: int, sampled: bool = False) -> tuple[Any, list[ProgramSpec], ProgramSpec]:
    """A model whose few tokens make drafts agree by chance, its step programs, and `speculate` or `speculate_sampled`."""
    torch.set_num_threads(1)
    config = dataclasses.replace(random_config(seed), vocab_size=vocab)
    model = empty_model(config)
    model.load_state_dict({n: v.double() for n, v in random_tensors(config, seed).items()}, assign=True)
    *specs, greedy, drawn = build_programs(config, lm=model.eval())
    return model, specs, drawn if sampled else greedy


class Session:
    """What the runtime keeps: tokens, states, hidden rows of every level, rows that each head holds."""

    def __init__(self, specs: list[ProgramSpec], prompt: list[int], behind: int):
        """The trunk has read the prompt; the heads lack its last `behind` rows."""
        self.tokens = list(prompt)
        self.states = {s.name: torch.zeros(s.rows or 0, s.width, dtype=F64) for spec in specs for s in spec.states}
        self.levels: list[Any] = []
        for j, spec in enumerate(specs):
            feed = [torch.tensor(prompt[j:])] if j == 0 else [torch.tensor(prompt[j : len(prompt) - behind + 1])]
            if j:
                feed.append(self.levels[-1][: len(feed[0])])
            states = [self.states[s.name] for s in spec.states]
            with torch.no_grad():
                logits, hidden, *states = spec.module(*feed, torch.tensor(0), torch.tensor([len(feed[0]) - 1]), *states)
            self.states |= {s.name: x for s, x in zip(spec.states, states, strict=True)}
            self.levels.append(hidden)
            if j == 0:
                self.pending = int(logits[0].argmax())
        self.behind = behind

    def arguments(self, spec: ProgramSpec, *settings: Any) -> list[Any]:
        """Inputs and states of the next call. settings: of a sampled step."""
        n, t, heads = len(self.tokens), self.behind, len(self.levels) - 1
        tokens = torch.tensor([*self.tokens, self.pending][n - t + 1 :])
        inputs = [tokens, self.levels[0][n - t : n]]
        if heads > 1:  # a head's first row is position j - 1
            inputs.append(torch.stack([self.levels[j][n - t - 1 - (j - 1)] for j in range(1, heads)]))
        rows = {s.name: n if s.owner == 0 else n - t - (s.owner - 1) for s in spec.states}
        states = [self.states[s.name] if s.rows else self.states[s.name][: rows[s.name]] for s in spec.states]
        return [*inputs, torch.tensor(n), *settings, *states]

    def take(self, spec: ProgramSpec, outputs: list[Any]) -> dict[str, Any]:
        """Update from a call's results; returns the outputs by name."""
        n, t = len(self.tokens), self.behind
        named = dict(zip(spec.outputs, outputs, strict=False))
        self.states = {s.name: x for s, x in zip(spec.states, outputs[len(spec.outputs) :], strict=True)}
        accepted = int(named["accepted"])
        self.levels[0] = torch.cat([self.levels[0][:n], named["hidden"][: accepted + 1]])
        for j, rows in enumerate(named.get("levels", []), 1):
            self.levels[j] = torch.cat([self.levels[j][: n - t - (j - 1)], rows])
        chosen = named["tokens"].tolist()
        self.tokens += [self.pending, *chosen[:accepted]]
        self.pending = chosen[accepted]
        self.behind = accepted + 1
        assert int(named["length"]) == len(self.tokens)
        return named


def reference_drafts(model: Any, tokens: list[int]) -> list[int]:
    """The drafts that follow `tokens`, each head on the whole sequence with the drafts before its own."""
    drafts: list[int] = []
    for head in range(1, model.config.num_nextn_predict_layers + 1):
        sequence = torch.tensor([tokens + drafts])
        drafts.append(int(model.mtp_forward(sequence, model.hidden(sequence))[head - 1][0, -1].argmax()))
    return drafts


def calls(seed: int, vocab: int, behind: int) -> Iterator[tuple[Any, Session, dict[str, Any], list[int]]]:
    """Model, session and outputs after every call, and the drafts that it should have made."""
    model, specs, spec = make(seed, vocab)
    prompt = torch.randint(0, vocab, (PROMPT,), generator=torch.Generator().manual_seed(seed)).tolist()
    session = Session(specs, prompt, behind)
    for _ in range(STEPS):
        with torch.no_grad():
            expected = reference_drafts(model, [*session.tokens, session.pending])
            yield model, session, session.take(spec, spec.module(*session.arguments(spec))), expected


@pytest.mark.parametrize("vocab", [2, 5, 200])
@pytest.mark.parametrize("seed", SEEDS)
def test_speculate_agrees_with_the_reference(seed: int, vocab: int) -> None:
    for model, session, named, drafts in calls(seed, vocab, 1 + seed % 6):
        tokens, accepted = torch.tensor([[*session.tokens, session.pending]]), int(named["accepted"])
        with torch.no_grad():
            hidden = model.hidden(tokens)
            own = model.logits_from_hidden(hidden)[0].argmax(-1).tolist()
        assert tokens[0, PROMPT:].tolist() == own[PROMPT - 1 : -1]
        new = tokens[0, -accepted - 1 :].tolist()
        assert named["tokens"].tolist() == new + [-1] * (len(drafts) - accepted)
        assert drafts[:accepted] == new[:-1] and (accepted == len(drafts) or drafts[accepted] != new[-1])
        torch.testing.assert_close(session.levels[0], hidden[0, :-1], atol=1e-9, rtol=0)
    assert session.behind <= len(drafts) + 1


@pytest.mark.parametrize("seed", SEEDS[:6])
def test_rows_of_the_heads(seed: int) -> None:
    """Confirmed rows of every level but the last equal the reference's, however the drafts before fared."""
    for model, session, _, _ in calls(seed, 3, 2):
        tokens = torch.tensor([session.tokens])
        with torch.no_grad():
            previous = model.hidden(tokens)
            for head in range(1, model.config.num_nextn_predict_layers):
                previous = model.mtp_hidden(head, previous, tokens)
                held = len(session.levels[head])
                torch.testing.assert_close(session.levels[head], previous[0, :held], atol=1e-9, rtol=0)


def test_the_seeds_cover_acceptance() -> None:
    """Every number of accepted drafts of every number of heads occurs, and every kind of head."""
    seen, kinds = set(), set()
    for seed in SEEDS:
        for model, _, named, drafts in calls(seed, 2, 1):
            seen.add((len(drafts), int(named["accepted"])))
            c = model.config
            kinds |= {c.attention_kind(i) for i in range(c.num_hidden_layers, c.num_layers)}
    assert seen == {(k, a) for k in (1, 2, 3) for a in range(k + 1)}
    assert kinds == {"dsa", "swa", "dense"}


class Interpreted:
    """A traced program that is called like the torch module that it came from."""

    def __init__(self, ir: Any, name: str, weights: dict[str, Any]):
        self.ir, self.program, self.weights = ir, ir.programs[name], weights
        self.inputs = [r.key for r in self.program.params if r.kind == "input"]

    def __call__(self, *args: Any) -> list[Any]:
        named = dict(zip(self.inputs, args, strict=False))
        env = {"T": len(named["tokens"]), "S": int(named["start"]), "M": len(named.get("rows", ()))}
        own = iter(args)
        arrays = [self.weights[r.key] if r.kind == "weight" else next(own).numpy() for r in self.program.params]
        return [torch.from_numpy(x) for x in run_graph(self.program.graph, arrays, env, self.ir)]


@pytest.mark.parametrize(("seed", "heads", "name"), [(54, 3, "speculate"), (49, 2, "speculate_sampled"), (3, 1, "speculate"),
                                                     (3, 1, "speculate_sampled")])  # fmt: skip
def test_the_traced_program(seed: int, heads: int, name: str) -> None:
    """In the numpy interpreter: a step with drafts takes what `step` and `draft_j` left, and gives what the torch module gives.

    Its layers are the functions of the step programs, at other sizes.
    """
    sampled = name == "speculate_sampled"
    config = dataclasses.replace(random_config(seed), vocab_size=3)
    assert config.num_nextn_predict_layers == heads
    model, specs, spec = make(seed, 3, sampled)
    ir = trace_programs(build_programs(config))
    called = {n: [x for x in p.graph.nodes if x.op == "call"] for n, p in ir.programs.items()}
    calls = called.pop(name)
    called.pop("speculate" if sampled else "speculate_sampled")
    assert {x.attrs["function"] for x in calls} <= {x.attrs["function"] for nodes in called.values() for x in nodes}
    assert [n.dims.get("T", "T") for n in calls[:heads]] == ["T", *(symbol("T") + j for j in range(1, heads))]
    assert all(n.dims["T"] == heads + 1 for n in calls[heads:]) and len(calls) == heads + config.num_hidden_layers
    weights = {n: x.detach().numpy() for n, x in [*model.named_parameters(), *model.named_buffers()]}
    prompt = torch.randint(0, 3, (PROMPT,), generator=torch.Generator().manual_seed(seed)).tolist()
    traced = [dataclasses.replace(s, module=Interpreted(ir, s.name, weights)) for s in specs]
    ours, theirs = Session(traced, prompt, 3), Session(specs, prompt, 3)
    run, seen, random = Interpreted(ir, name, weights), set(), torch.Generator().manual_seed(seed)
    for _ in range(8):
        uniform = torch.rand(2 * heads + 1, generator=random, dtype=F64)
        filtered = torch.tensor(0.9, dtype=F64), torch.tensor(0), torch.tensor(0.95, dtype=F64)
        settings = (*filtered, uniform[:heads], uniform[heads:]) if sampled else ()
        got = ours.take(spec, run(*ours.arguments(spec, *settings)))
        with torch.no_grad():
            expected = theirs.take(spec, list(spec.module(*theirs.arguments(spec, *settings))))
        for name, x in expected.items():
            torch.testing.assert_close(got[name], x, atol=1e-9, rtol=0)
        for name, x in theirs.states.items():
            torch.testing.assert_close(ours.states[name], x, atol=1e-9, rtol=0)
        seen.add(int(expected["accepted"]))
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("own", "drafts", "accepted", "tokens"),
    [([5, 6, 7], [5, 6], 2, [5, 6, 7]), ([5, 6, 7], [5, 9], 1, [5, 6, -1]), ([5, 6, 7], [9, 6], 0, [5, -1, -1]),
     ([4, 1], [4], 1, [4, 1]), ([4, 1], [1], 0, [4, -1])],
)  # fmt: skip
def test_accept(own: list[int], drafts: list[int], accepted: int, tokens: list[int]) -> None:
    got = accept(torch.tensor(own), torch.tensor(drafts), torch.tensor(10))
    assert [x.tolist() for x in got] == [accepted, tokens, 11 + accepted]
