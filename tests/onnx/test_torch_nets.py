"""Small nets exported by torch.onnx: imported, optimised, compiled, against onnxruntime."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pangu_compile.onnx import load_onnx
from pangu_compile.passes import run_passes
from pangu_compile.plan import PlanOptions

from ..codegen.harness import Compiled
from .running import open_session
from .test_import import interpret, sizes_of

pytest.importorskip("onnxscript", reason="torch.onnx exports through onnxscript")
torch.set_num_threads(1)
TOLERANCE = 2e-5
N = 9  # example of the symbolic size


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.LayerNorm(20), nn.Linear(20, 5), nn.Softmax(-1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Block(nn.Module):
    """A causal attention block with a gated feed-forward: what most language models are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(31, 16), nn.RMSNorm(16)
        self.qkv, self.out = nn.Linear(16, 48, bias=False), nn.Linear(16, 16)
        self.gate, self.up, self.down = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        count = tokens.shape[0]
        q, k, v = (p.view(count, 2, 8).transpose(0, 1) for p in self.qkv(self.norm(x)).chunk(3, -1))
        place = torch.arange(count)
        scores = (q @ k.transpose(1, 2)) * 8**-0.5
        scores = scores.masked_fill(place[None, :] > place[:, None], float("-inf"))
        mixed = (torch.softmax(scores, -1) @ v).transpose(0, 1).reshape(count, 16)
        x = x + self.out(mixed)
        return x + self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Router(nn.Module):
    """Top-k routing over gathered expert weights."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 5, bias=False)
        self.experts = nn.Parameter(torch.randn(5, 6, 8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.sigmoid(self.router(x))
        weight, chosen = torch.topk(scores, 2)
        y = torch.matmul(self.experts[chosen], x[:, None, :, None])[..., 0]
        return (y * (weight / weight.sum(-1, keepdim=True))[..., None]).sum(1), chosen


class Views(nn.Module):
    """Slices, concatenation, comparisons, reductions, clamps."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        both = torch.cat([x[:, 1:4], y[:, :2] * 2, x.flip(1)], 1)
        kept = torch.where(both > 0.5, both, both.abs().clamp(max=1.0))
        return kept.mean(0, keepdim=True), kept.amax(1), kept.argmax(1), (kept - kept.amin(1, keepdim=True)).sqrt()


NETS: dict[str, tuple[type[nn.Module], list[Tensor]]] = {
    "mlp": (Mlp, [torch.randn(N, 12)]),
    "block": (Block, [torch.randint(0, 31, (N,))]),
    "router": (Router, [torch.randn(N, 8)]),
    "views": (Views, [torch.randn(N, 6), torch.randn(N, 3)]),
}


def exported(name: str) -> Any:
    kind, args = NETS[name]
    torch.manual_seed(0)
    size = torch.export.Dim("N", min=2, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            shapes = tuple({0: size} for _ in args)
            return torch.onnx.export(kind().eval(), tuple(args), dynamic_shapes=shapes, dynamo=True, verbose=False).model_proto
        finally:
            logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", NETS)
def test_torch_net(name: str, tmp_path: Path) -> None:
    model = exported(name)
    session = open_session(model)
    names = [i.name for i in session.get_inputs()]
    optimised = load_onnx(model)
    run_passes(optimised.module)
    limits = PlanOptions(max_context=64, max_chunk=16, max_dims=dict.fromkeys(optimised.module.programs["forward"].dims, 64))
    compiled = Compiled(optimised.module, tmp_path, options=limits)
    weights = {key: optimised.read(key) for key in optimised.arrays}
    for seed, size in enumerate((N, 2, 40)):
        rng = np.random.default_rng(seed)
        feeds = {}
        for key, example in zip(names, NETS[name][1], strict=True):
            shape = (size, *example.shape[1:])
            real = example.is_floating_point()
            feeds[key] = rng.standard_normal(shape).astype(np.float32) if real else rng.integers(0, 31, shape)
        expected = session.run(None, feeds)
        ran = compiled.run("forward", sizes_of(optimised.module, feeds), {**feeds, **weights})
        for got in (interpret(load_onnx(model), feeds, False), list(ran.values())):
            for a, b in zip(got, expected, strict=True):
                assert a.shape == b.shape
                np.testing.assert_allclose(a, b, TOLERANCE, TOLERANCE * float(np.abs(b).max()))
