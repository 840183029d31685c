"""Generated functions of fused operators against the IR's numpy semantics, with the vendor's operators and without."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pangu_compile.codegen.torch_npu import CHIPS, exists
from pangu_compile.codegen.torch_npu.choose import Target
from pangu_compile.codegen.torch_npu.operators import POSITIONAL, chosen_steps, is_fused, result_names
from pangu_compile.codegen.torch_npu.support import reference
from pangu_compile.ir import opdef, tensor
from tests.ir.fused_cases import I64, Case, S, T, _pre_operands, all_cases, f32, slotted

from .running import operator_source, run_operator

CALLS = ((1, 0), (1, 1), (5, 0), (4, 7), (9, 30))  # (tokens, rows cached before)


def covered(seed: int) -> list[Case]:
    return [case for case in all_cases(seed) if is_fused(case.op)]


def agree(case: Case, target: Target, tokens: int, before: int, rng: np.random.Generator, ties: bool = False) -> None:
    """float32 results are within the operator's tolerance of the float64 ones; integers are equal."""
    _, node = case.node()
    env = {"T": tokens, "S": before}
    arrays = case.arrays(env, rng, before, ties)
    expected = dict(zip(result_names(node), opdef(node.op).evaluate(arrays, node.attrs, env), strict=True))
    got = run_operator(node, arrays, target)
    for name, value in expected.items():
        scale = max(1.0, float(np.abs(value).max(initial=0.0)))
        assert got[name].shape == np.asarray(value).shape, f"{case} {name}"
        assert np.abs(got[name] - value).max(initial=0.0) <= 20 * opdef(node.op).tolerance * scale, f"{case} {name}"
        if np.asarray(value).dtype.kind == "i":
            assert (got[name] == value).all(), f"{case} {name}"


def test_every_fused_operator_of_a_layer_has_a_template() -> None:
    names = {case.op for case in all_cases(0)}
    without = {"rms_norm", "layer_norm", "linear", "rotary_table", "sample_token", "mtp_verify_sampled"}
    assert {op for op in names if not is_fused(op)} == without
    assert all(is_fused(op) for op in POSITIONAL)


@pytest.mark.parametrize("tokens,before", CALLS)
def test_operators_in_float32(tokens: int, before: int) -> None:
    rng = np.random.default_rng(tokens + before)
    cases = covered(tokens)
    assert len(cases) > 60
    for case in cases:
        agree(case, Target("ascend910b", "f32"), tokens, before, rng)


@pytest.mark.parametrize("op", ["dsa_attention", "moe_gate", "lm_head_argmax", "mtp_verify"])
def test_the_lowest_index_wins_ties(op: str) -> None:
    rng = np.random.default_rng(5)
    for case in (c for c in covered(3) if c.op == op):
        agree(case, Target("ascend910b", "f32"), 6, 9, rng, ties=True)


# Sizes that the vendor's operators take. Their references compute in float32, so that they can be compared closely: the rule
# that operands have 16 bits is suspended.


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "sixteen", property(lambda self: True))
    monkeypatch.setattr(reference, "SIXTEEN", (torch.bfloat16, torch.float16, torch.float32))


def large_cases(heads: int = 3) -> Iterator[Case]:
    pre = {"pre_eps": 1e-5, "norm_eps": 1e-6, "mhc_eps": 1e-6, "iterations": 20}
    write = {"x": f32(T, 4, 16), "out": f32(T, 16), "post": f32(T, 4), "res": f32(T, 4, 4), "out_norm": f32(16)}
    results = ("new_x", "y", "new_post", "new_res")
    yield slotted("mhc_post_pre", {**write, **_pre_operands(4, 16, True, True)}, results, **pre, out_eps=1e-5, block_eps=1e-5)
    yield slotted("mhc_pre", {"x": f32(T, 6, 32), **_pre_operands(6, 32, False, False)}, results[1:], **pre)
    yield Case("sinkhorn", {"raw": f32(T, 8, 8)}, {"iterations": 3, "eps": 1e-6})
    conv = {"x": f32(T, 128), "weight": f32(128, 1, 3), "start": tensor(I64), "ring": f32(5, 128)}
    yield slotted("mome_conv", conv, ("y", "new_ring"))
    output = {"a": f32(T, 256), "o_conv": f32(256, 1, 3), "o_ring": f32(2, 256), "start": tensor(I64), "o_proj": f32(8, 256)}
    yield slotted("attention_output", output, ("out", "new_o_ring"))
    prologue = {"u": f32(T, 16), "q_a": f32(128, 16), "q_conv": f32(128, 1, 3), "q_ring": f32(4, 128), "q_norm": f32(128),
                "q_b": f32(heads * 12, 128), "kv_a": f32(256 + 8, 16), "kv_conv": f32(256, 1, 3), "kv_ring": f32(3, 256),
                "kv_norm": f32(256), "table": f32(T, 8), "start": tensor(I64), "cache": f32(S, 256 + 8)}  # fmt: skip
    yield slotted("mla_prologue", prologue, ("q", "qr", "new_cache", "new_q_ring", "new_kv_ring"), heads=heads, head_dim=12,
                  q_eps=1e-5, kv_eps=1e-6)  # fmt: skip


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("tokens,before", CALLS)
def test_vendor_operators_of_950(tokens: int, before: int) -> None:
    rng = np.random.default_rng(tokens)
    target = Target("ascend950", "f32")
    for case in large_cases():
        _, node = case.node()
        assert all(choice.vendor for choice in chosen_steps(node, target).values()), case
        agree(case, target, tokens, before, rng)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("sinks", [0, 5])
def test_vendor_sparse_attention(chip: str, sinks: int) -> None:
    rng = np.random.default_rng(sinks)
    heads, nope, v, index_heads, rows = 3, 16, 8, 8, S + T
    operands = {"q": f32(T, heads, nope + 64), "cache": f32(rows, 576), "iq": f32(T, index_heads, 128), "iw": f32(T, index_heads),
                "index_cache": f32(rows, 128), "kv_b": f32(heads * (nope + v), 512)}  # fmt: skip
    operands |= {"sinks": f32(sinks, 576)} if sinks else {}
    case = slotted("dsa_attention", operands, ("out",), nope=nope, v=v, scale=0.05, expand_from=0, topk=6, index_scale=128**-0.5)
    _, node = case.node()
    target = Target(chip, "f32")
    assert chosen_steps(node, target)["sparse"].vendor
    for tokens, before in CALLS:
        env = {"T": tokens, "S": before}
        arrays = case.arrays(env, rng, before)
        front = torch.from_numpy(arrays[-1]).float() if sinks else None
        (expected,) = opdef("dsa_attention").evaluate(arrays, node.attrs, env)
        got = run_operator(node, arrays, target, sparse=(512, front))["out"]
        assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def test_only_operators_of_the_chip_are_called() -> None:
    for chip in CHIPS:
        for dtype in ("f32", "bf16"):
            for case in [*covered(1), *large_cases()]:
                _, node = case.node()
                for call in operator_source(node, Target(chip, dtype))[2]:
                    assert exists(call.operator, chip)


def test_a_step_without_the_vendors_operator_says_why() -> None:
    case = next(c for c in large_cases() if c.op == "mhc_pre")
    _, node = case.node()
    assert chosen_steps(node, Target("ascend910b", "bf16"))["pre"].reason == "npu_mhc_pre does not exist on ascend910b"
    assert chosen_steps(node, Target("ascend950", "f32"))["pre"].reason == "needs 16-bit activations"
    assert chosen_steps(node, Target("ascend950", "bf16"))["pre"].vendor
    text = operator_source(node, Target("ascend910b", "bf16"))[1]
    assert "# pre: plain torch, not npu_mhc_pre: npu_mhc_pre does not exist on ascend910b" in text

