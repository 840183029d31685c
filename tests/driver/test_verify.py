"""What `verify` compares with, and how closely, by format."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pangu_compile.driver.verify import EIGHT, EXACT, NARROW, SIXTEEN, compare, round_weights, stored_formats, tolerance


@pytest.mark.parametrize(
    ("target", "weights", "activations", "expected"),
    [
        ("cpu", "f32", None, EXACT), ("cpu", "bf16", None, EXACT), ("cpu", "int8", None, SIXTEEN), ("cpu", "int4", None, EIGHT),
        ("cpu", "w8a8", None, EIGHT), ("ascend910b", "bf16", "float32", EXACT), ("ascend910b", "int8", "float32", EXACT),
        ("ascend910b", "int8", "bf16", EIGHT), ("ascend910b", "w8a8", "float32", EIGHT), ("ascend910b", "bf16", "bf16", NARROW),
        ("torch_npu", "bf16", "float32", EXACT), ("ascend910b", "w8a16", "float32", SIXTEEN),
    ],
)  # fmt: skip
def test_tolerance_follows_the_accuracy_of_activations(target: str, weights: str, activations: str | None, expected: Any) -> None:
    options = {} if activations is None else {"activations": activations}
    assert tolerance({"target": target, "weights": weights, "options": options}) == expected


def test_only_torch_may_let_drafts_change_a_token() -> None:
    narrow = {"weights": "bf16", "options": {"activations": "bf16"}}
    assert not tolerance({**narrow, "target": "torch_npu"}).drafts_exact
    assert tolerance({**narrow, "target": "ascend910b"}).drafts_exact


def test_the_reference_gets_the_stored_values() -> None:
    """Int8 rows, also of weights that lie together, and bf16; what keeps float32 is left alone."""
    names = ("a", "b", "c", "d")
    model = torch.nn.ParameterDict({n: torch.randn(8, 40, dtype=torch.float64, generator=torch.manual_seed(1)) for n in names})
    before = {n: model[n].detach().numpy().copy() for n in names}
    tensors = {"a+b": {"dtype": "U8"}, "c": {"dtype": "BF16"}, "d": {"dtype": "F32"}, "folded": {"dtype": "BF16"}}
    assert stored_formats({"tensors": tensors}) == {"a": "q8", "b": "q8", "c": "bf16", "folded": "bf16"}
    packed = {"x": {"dtype": "U8", "format": "q4"}, "y": {"dtype": "U8", "format": "bf16c"}}
    assert stored_formats({"tensors": packed}) == {"x": "q4", "y": "bf16"}
    round_weights(model, {"tensors": tensors})  # type: ignore[arg-type]
    moved = {n: np.abs(model[n].detach().numpy() - before[n]).max(-1) / np.abs(before[n]).max(-1) for n in names}
    assert (moved["a"] <= 0.51 / 127).all() and (moved["b"] > 1e-4).all() and (moved["d"] == 0).all()
    assert (moved["c"] > 0).all() and (moved["c"] <= 2.0**-8).all()


def test_a_share_of_the_tokens_may_differ() -> None:
    reference = np.zeros((10, 4))
    reference[:, 0] = 1.0
    got = reference.copy()
    got[:4, 1] += 0.5
    assert not compare("x", got, reference).agrees and compare("x", got, reference, EIGHT).agrees
    assert compare("x", got, reference, EIGHT).within == 0.6
    got[4:6, 1] += 0.5
    assert not compare("x", got, reference, EIGHT).agrees
    got[:] = reference
    got[0, 0] = np.nan
    assert not compare("x", got, reference, EIGHT).agrees
