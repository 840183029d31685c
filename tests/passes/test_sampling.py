"""The sampling rules on what tracing writes: they fire, keep away from anything else, and keep the meaning."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from pangu_compile.ir import IRError, Module, opdef, parse_graph, print_graph, run_graph
from pangu_compile.models.sampling import Filter, accept_sampled, draw
from pangu_compile.passes import PASSES, Pass, run_passes
from pangu_compile.trace import trace_module

from .cases import module_of, ops

NAMES = ("canonicalise", "simplify_views", "fuse_mtp", "clean_layout")
STEPS = tuple(Pass(p.name, p.run) for p in PASSES if p.name in NAMES)
PARAMS = ("logits", "temperature", "top_k", "top_p", "uniform", "draft_probs", "drafts", "start")
VOCAB, DRAFTS = 7, 3
SETTINGS = [(1.0, 0, 1.0), (0.4, 0, 1.0), (0.9, 3, 1.0), (1.5, 0, 0.6), (1.2, 4, 0.8), (0.0, 0, 1.0), (1.0, 99, 1.0)]


class Sample(torch.nn.Module):
    def forward(self, logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, uniform: Tensor) -> tuple[Tensor, ...]:
        probs = Filter(temperature, top_k, top_p).distribution(logits)
        return draw(probs, uniform), probs


class Verify(torch.nn.Module):
    def forward(
        self, logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, uniform: Tensor, probs: Tensor, drafts: Tensor,
        start: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        own = Filter(temperature, top_k, top_p).distribution(logits)
        return accept_sampled(own, probs, drafts, uniform, start)


def numbers(settings: tuple[float, int, float]) -> list[Tensor]:
    temperature, top_k, top_p = settings
    return [torch.tensor(temperature), torch.tensor(top_k), torch.tensor(top_p)]


def arguments(verify: bool, settings: tuple[float, int, float], drafts: int = DRAFTS, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    rows = drafts + 1 if verify else 2
    args = [torch.randn(rows, VOCAB, generator=g) * 2, *numbers(settings), torch.rand(rows, generator=g, dtype=torch.float64)]
    if verify:
        probs = torch.softmax(torch.randn(drafts, VOCAB, generator=g, dtype=torch.float64), -1)
        args += [probs, torch.randint(0, VOCAB, (drafts,), generator=g), torch.tensor(11)]
    return args


@cache
def text(verify: bool, drafts: int = DRAFTS) -> str:
    """The traced graph, simplified."""
    module = trace_module(Verify() if verify else Sample(), arguments(verify, SETTINGS[0], drafts))
    graph = run_passes(module, passes=STEPS[:2]).programs["forward"].graph
    graph.name = "f"
    for param, name in zip(graph.params, PARAMS, strict=False):
        param.name = name
    for node in graph.nodes:
        node.loc = ""
    return print_graph(graph)


def fused(source: str) -> Module:
    """After the passes, each of which is validated."""
    return run_passes(module_of(source), validate=True, passes=STEPS)


@pytest.mark.parametrize(("verify", "name"), [(False, "sample_token"), (True, "mtp_verify_sampled")])
def test_it_is_one_operator(verify: bool, name: str) -> None:
    module = fused(text(verify))
    (node,) = module.programs["f"].graph.nodes
    assert node.op == name and set(node.attrs["slots"]) == set(opdef(name).signature.slots)
    assert node.outputs == module.programs["f"].graph.outputs


@pytest.mark.parametrize("drafts", [1, 2])
def test_any_number_of_drafts(drafts: int) -> None:
    assert ops(fused(text(True, drafts))) == ["mtp_verify_sampled"]


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("settings", SETTINGS)
def test_torch_the_traced_graph_and_the_operator_agree(verify: bool, settings: tuple[float, int, float]) -> None:
    before, after = parse_graph(text(verify)), fused(text(verify)).programs["f"].graph
    verdicts = set()
    for seed in range(25):
        args = arguments(verify, settings, seed=seed)
        arrays = [a.numpy() for a in args]
        expected = [x.numpy() for x in (Verify() if verify else Sample())(*args)]
        for got in (run_graph(before, arrays, {}), run_graph(after, arrays, {})):
            for mine, theirs in zip(got, expected, strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=0)
        verdicts.add(int(np.ravel(expected[0])[0]))
    assert len(verdicts) > 1


MUTATIONS = {  # of the traced text: what is no longer the operator
    "no greedy": ("le(%", "lt(%"),
    "ascending": ("{descending=True}", "{descending=False}"),
    "another filter": ("logical_and(", "logical_or("),
    "product": ("div(", "mul("),
    "running products": ("cumsum(", "exp("),
}


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("name", MUTATIONS)
def test_anything_else_is_left_alone(verify: bool, name: str) -> None:
    old, new = MUTATIONS[name]
    source = text(verify)
    assert old in source
    left = ops(fused(source.replace(old, new, 1)))
    assert not {"sample_token", "mtp_verify_sampled"} & set(left)


@pytest.mark.parametrize(
    ("old", "new"),
    [("mul(%v", "add(%v"), (" = relu(", " = abs("), ("value=-1}", "value=-2}"),
     ("axis=0, start=1, stop=4", "axis=0, start=0, stop=3")],
)  # fmt: skip
def test_other_verdicts_are_left_alone(old: str, new: str) -> None:
    """The chances, the rest of a rejected distribution, the filler, and which number is drawn with."""
    head, _, tail = text(True).rpartition(old)
    assert head
    assert "mtp_verify_sampled" not in ops(fused(head + new + tail))


def test_distributions_that_others_read_stay() -> None:
    graph = parse_graph(text(True))
    probs = next(n.inputs[0] for n in graph.nodes if n.op == "slice" and n.output.type.shape == (DRAFTS, VOCAB))
    left = ops(fused(text(True).replace("return ", f"return %{probs.name}, ")))
    assert "mtp_verify_sampled" not in left and "cumsum" in left


def test_a_broken_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation names the pass of a rule that draws from the trunk's own distribution after a rejection."""
    from pangu_compile.ir.ops import mtp

    monkeypatch.setattr(mtp, "draw", lambda weights, uniform: int(np.argmin(weights)))
    with pytest.raises(IRError, match="pass fuse_mtp changed f's output"):
        fused(text(True))
