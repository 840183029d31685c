"""Any torch module of covered operators compiles: torch, the interpreter and the compiled code agree."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pangu_compile.ir import run_graph
from pangu_compile.models.sampling import Filter, accept_sampled, draw
from pangu_compile.passes import run_passes
from pangu_compile.trace import trace_module

from .harness import Compiled

torch.set_num_threads(1)


class Lambda(nn.Module):
    """A function as a module, with parameters."""

    def __init__(self, fn: Callable[..., object], **params: Tensor):
        super().__init__()
        self.fn = fn
        for name, value in params.items():
            setattr(self, name, nn.Parameter(value))

    def forward(self, *args: Tensor) -> object:
        return self.fn(self, *args)


def rnd(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def sampled(chosen: Filter, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    probs = chosen.distribution(logits)
    return draw(probs, uniform), probs


T = {0: "T"}
CASES: dict[str, tuple[Callable[..., object], dict[str, Tensor], list[Tensor], list[dict[int, str]]]] = {
    "linear_bias_gelu": (lambda m, x: nn.functional.gelu(x @ m.w.t() + m.b), {"w": rnd(7, 5), "b": rnd(7)}, [rnd(6, 5)], [T]),
    "linear_relu_softmax": (lambda m, x: torch.softmax(torch.relu(x @ m.w), -1), {"w": rnd(5, 33)}, [rnd(6, 5)], [T]),
    "layer_norm": (lambda m, x: nn.functional.layer_norm(x, (37,), m.w, m.b), {"w": rnd(37), "b": rnd(37)}, [rnd(6, 37)], [T]),
    "rms": (lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * m.w, {"w": rnd(19)}, [rnd(4, 19)], [T]),
    "cat_slice": (lambda m, x, y: torch.cat([x[:, 2:5] * 2, y, x[:, :1]], 1), {}, [rnd(6, 5), rnd(6, 3)], [T, T]),
    "heads": (
        lambda m, x: torch.matmul(x.view(-1, 3, 8).transpose(0, 1), m.w).transpose(0, 1).reshape(-1, 15),
        {"w": rnd(3, 8, 5)}, [rnd(6, 24)], [T],
    ),
    "attention": (
        lambda m, q, k: torch.softmax((q @ k.t()).masked_fill(torch.arange(k.shape[0])[None] > 3, float("-inf")), -1) @ k,
        {}, [rnd(5, 18), rnd(9, 18)], [T, {0: "S"}],
    ),
    "sort": (lambda m, x: torch.sort(x.round(), dim=-1, descending=True, stable=True), {}, [rnd(6, 21) * 2], [T]),
    "running_sums": (lambda m, x: (x.cumsum(-1), (x * 4).long().cumsum(1), x.double().cumsum(-1)), {}, [rnd(6, 21)], [T]),
    "sampling": (lambda m, x, t, k, p, u: sampled(Filter(t, k, p), x, u), {},
                 [rnd(6, 40), torch.tensor(0.8), torch.tensor(9), torch.tensor(0.9), torch.linspace(0.05, 0.95, 6).double()],
                 [T, {}, {}, {}, T]),
    "rejection": (
        lambda m, x, q, d, u, t, k, p, s: accept_sampled(Filter(t, k, p).distribution(x), q, d, u, s), {},
        [rnd(4, 30), torch.softmax(rnd(3, 30).double(), -1), torch.tensor([3, 0, 29]), torch.tensor([0.2, 0.9, 0.4, 0.7]).double(),
         torch.tensor(1.2), torch.tensor(0), torch.tensor(0.95), torch.tensor(17)], [{}] * 8,
    ),
    "topk_gather": (
        lambda m, x: x.gather(1, torch.sort(x.round(), dim=-1, descending=True, stable=True)[1][:, :4]),
        {}, [rnd(6, 21) * 2], [T],
    ),
    "experts": (
        lambda m, x, i: torch.matmul(m.w[i], x[:, None, :, None])[..., 0].sum(1), {"w": rnd(4, 9, 18)},
        [rnd(6, 18), torch.tensor([[0, 3], [1, 2], [3, 3], [2, 0], [0, 1], [1, 1]])], [T, T],
    ),
    "experts_pairs": (
        lambda m, x, i: torch.matmul(m.w[i], x[..., None])[..., 0], {"w": rnd(4, 9, 18)},
        [rnd(6, 2, 18), torch.tensor([[0, 3], [1, 2], [3, 3], [2, 0], [0, 1], [1, 1]])], [T, T],
    ),
    "embedding": (lambda m, i: nn.functional.embedding(i, m.w) * 2, {"w": rnd(11, 6)}, [torch.tensor([3, 0, 10, 3])], [T]),
    "put_rows_later_wins": (
        lambda m, x, i, r: x.index_copy(0, i, r), {}, [rnd(5, 4), torch.tensor([3, 0, 3]), rnd(3, 4)], [{}, T, T],
    ),
    "ring_pick": (
        lambda m, a, b, i: torch.cat([a, b], 0)[i], {}, [rnd(5, 4), rnd(7, 4), torch.tensor([9, 0, 11, 4])],
        [{}, T, {0: "M"}],
    ),
    "reductions": (
        lambda m, x: (x.sum(1), x.amax((0, 2)), x.amin(2), x.mean((1, 2)), x.argmax(-1)), {}, [rnd(6, 5, 33)], [T],
    ),
    "integers": (lambda m, i: (torch.remainder(i - 7, 5), (i // 3) * 2, i.clamp(2, 6), (i > 3) | (i < 1)), {},
                 [torch.tensor([0, 3, 8, 12, 4])], [T]),
    "float64_angles": (
        lambda m, i: (i.double()[:, None] * torch.pow(1e4, torch.arange(0, 8, 2, dtype=torch.float64) / -8)).cos().float(),
        {}, [torch.tensor([0, 5, 500000])], [T],
    ),
    "batched_broadcast": (lambda m, x: torch.matmul(x, m.w), {"w": rnd(3, 5, 4)}, [rnd(6, 3, 2, 5)], [T]),
    "same_output_twice": (lambda m, x: (x, x + 1, x), {}, [rnd(6, 5)], [T]),
    "silu_gate": (lambda m, x: nn.functional.silu(x[..., :3]) * x[..., 3:], {}, [rnd(4, 2, 6)], [T]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_compiled_equals_torch(name, tmp_path):
    fn, params, args, dynamic = CASES[name]
    net = Lambda(fn, **params)
    with torch.no_grad():
        result = net(*args)
    expected = [r.numpy() for r in (result if isinstance(result, tuple) else [result])]
    module = run_passes(trace_module(net, args, dynamic), validate=True)
    dims = {label: args[i].shape[axis] for i, d in enumerate(dynamic) for axis, label in d.items()}
    arrays = {f"in{i}": a.numpy() for i, a in enumerate(args)}
    arrays |= {n: p.detach().numpy() for n, p in net.named_parameters()}
    compiled = Compiled(module, tmp_path)
    outputs = compiled.run("forward", dims, arrays)
    assert compiled.warnings == ""
    for i, want in enumerate(expected):
        got = outputs[f"out{i}"]
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6 * max(1.0, float(np.abs(want).max(initial=0))))


def test_interpreter_equals_torch_in_float64():
    fn, params, args, dynamic = CASES["attention"]
    net = Lambda(fn, **params).double()
    module = trace_module(Lambda(fn), args, dynamic)
    wide = [a.double() for a in args]
    want = net(*wide).numpy()
    got = run_graph(module.programs["forward"].graph, [a.numpy() for a in wide], {"T": 5, "S": 9}, module)[0]
    np.testing.assert_allclose(got, want, rtol=1e-12)
