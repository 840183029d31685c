"""Chips and times; acceptance rates."""

from __future__ import annotations

import pytest

from pangu_compile.errors import UserError
from pangu_compile.report import chip, parse_acceptance, rates_for
from pangu_compile.report.cost import Work
from pangu_compile.report.roofline import TARGETS
from pangu_compile.report.speculation import PUBLISHED, curve, expected_tokens

from .conftest import CHIP


def test_ascend_rates_follow_from_the_platform_numbers() -> None:
    b3 = chip("ascend910b")
    assert b3.bytes_per_second == 20 * 32 * 1.8e9 and b3.matrix_flops == 2 * 4096 * 20 * 1.8e9
    assert b3.memory_bytes == 64 << 30 and b3.ridge == pytest.approx(256)
    assert chip("ascend910_93").bytes_per_second == 24 * 32 * 1.85e9


def test_reference_cpu_is_the_same_everywhere() -> None:
    assert chip("cpu", local=False) == chip("cpu", local=False)
    assert chip("cpu", local=False).matrix_flops == 8 * 3e9 * 32
    local = chip("cpu")
    assert local == chip("cpu") and local.memory_bytes and local.bytes_per_second <= 80e9


def test_measured_bandwidth_is_plausible() -> None:
    measured = chip("cpu", measure=True)
    assert 1e8 < measured.bytes_per_second < 1e13 and "measured" in measured.derivation[2]


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_a_roofline(target: str) -> None:
    record = chip(target).to_json()
    assert record["matrix_flops_per_second"] > record["vector_flops_per_second"] > 0


def test_unknown_target() -> None:
    with pytest.raises(UserError, match="torch_npu"):
        chip("torch_npu")


def test_seconds() -> None:
    assert CHIP.seconds("linear", Work(10_000, 100)) == 10.0  # 1000 flop/s
    assert CHIP.seconds("rms_norm", Work(10_000, 100)) == 20.0  # vector units
    assert CHIP.seconds("linear", Work(1, 500)) == 5.0


def test_expected_tokens() -> None:
    assert expected_tokens([]) == 1.0
    assert expected_tokens([0.5, 0.5]) == 1.75
    assert expected_tokens(PUBLISHED) == pytest.approx(1 + 0.925 + 0.925 * 0.892 + 0.925 * 0.892 * 0.886)
    assert curve(3)[0] == (0.0, 1.0) and curve(3)[-1] == (1.0, 4.0)


def test_rates() -> None:
    assert parse_acceptance("0.9, 1,0") == (0.9, 1.0, 0.0)
    assert rates_for(2, None) == PUBLISHED[:2] and rates_for(3, (0.5,)) == (0.5,) and rates_for(0, None) == ()
    with pytest.raises(UserError, match="2 rates, but the model has 1"):
        rates_for(1, (0.5, 0.5))


@pytest.mark.parametrize(("text", "message"), [("0.9,x", "'x' is not a number"), ("1.5", "not between 0 and 1"),
                                               ("nan", "not between"), ("", "not a number")])  # fmt: skip
def test_bad_rates(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_acceptance(text)
