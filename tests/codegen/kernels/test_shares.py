"""Small operators of which every thread computes some tokens alone: in every weight format the same bits on any number of threads,
with no more scratch than is planned for calls of so few tokens."""

from __future__ import annotations

import numpy as np
import pytest

from pangu_compile.driver.packing import pack
from pangu_compile.ir import DType, tensor
from tests.ir.fused_cases import Case, T, f32, slotted

from .checks import same_bits
from .library import PLAIN, Library

HIDDEN, LOW, LATENT, ROPE, HEADS, HEAD, INNER, EXPERTS, CHOSEN = 72, 40, 34, 6, 3, 16, 40, 5, 2
FORMATS = (DType.f32, DType.bf16c, DType.q8, DType.q8i, DType.w8a8, DType.q4)
FLAGS = ("-O1", *PLAIN[1:])


def operators(weights: DType) -> list[Case]:
    def w(*shape: int):
        return tensor(weights, *shape)

    prologue = {
        "u": f32(T, HIDDEN), "q_a": w(LOW, HIDDEN), "q_conv": f32(LOW, 1, 3), "q_ring": f32(4, LOW), "q_norm": f32(LOW),
        "q_b": w(HEADS * HEAD, LOW), "kv_a": w(LATENT + ROPE, HIDDEN), "kv_conv": f32(LATENT, 1, 3), "kv_ring": f32(3, LATENT),
        "kv_norm": f32(LATENT), "table": f32(T, ROPE), "start": tensor(DType.i64),
    }  # fmt: skip
    output = {
        "a": f32(T, LOW), "o_conv": f32(LOW, 1, 3), "o_ring": f32(3, LOW), "start": tensor(DType.i64), "o_proj": w(HIDDEN, LOW),
    }  # fmt: skip
    moe = {
        "x": f32(T, HIDDEN), "index": tensor(DType.i64, T, CHOSEN), "weight": f32(T, CHOSEN),
        "gate_up": w(EXPERTS, 2 * INNER, HIDDEN), "down": w(EXPERTS, HIDDEN, INNER),
        "shared_gate": w(INNER, HIDDEN), "shared_up": w(INNER, HIDDEN), "shared_down": w(HIDDEN, INNER),
    }  # fmt: skip
    results = ("q", "qr", "latent", "new_q_ring", "new_kv_ring")
    return [
        slotted("mla_prologue", prologue, results, heads=HEADS, head_dim=HEAD, q_eps=1e-5, kv_eps=1e-6),
        slotted("attention_output", output, ("out", "new_o_ring")),
        Case("dense_ffn", {"x": f32(T, HIDDEN), "gate": w(INNER, HIDDEN), "up": w(INNER, HIDDEN), "down": w(HIDDEN, INNER)}, {}),
        slotted("moe_ffn", moe, ("out",)),
    ]


def draw(case: Case, tokens: int) -> dict[str, np.ndarray]:
    arrays = case.arrays({"T": tokens, "S": 0}, np.random.default_rng(tokens), 5)
    values = dict(zip(case.operands, arrays, strict=True))
    for name, type_ in case.operands.items():
        if type_.dtype is DType.f32:
            values[name] = values[name].astype(np.float32)
        elif type_.dtype is not DType.i64:
            away_from_zero = values[name] + np.copysign(0.01, values[name])  # bf16c has few numbers far below a row's largest
            values[name] = pack(type_.dtype.value, away_from_zero.astype(np.float32))
    return values


@pytest.mark.parametrize("tokens", [3, 7])
def test_bits_and_scratch(tokens, tmp_path):
    cases = [case for weights in FORMATS for case in operators(weights)]
    library = Library(cases, tmp_path, max_tokens=tokens)
    assert library.compile(FLAGS) == ""
    library.load()
    for number, case in enumerate(cases):
        operands, env = draw(case, tokens), {"T": tokens, "S": 0}
        want = library.run(number, env, operands)
        assert all(np.isfinite(array).all() for array in want.values())
        for threads in (2, 3, 6):
            got = library.run(number, env, operands, threads)
            same_bits(got, want, f"on {threads} threads, {case}, {case.operands}")
