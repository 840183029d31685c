"""Packing of weights: what unpack gives back, how near it is, and that slices, threads and parts change nothing."""

from __future__ import annotations

import numpy as np
import pytest

from pangu_compile.driver import packing
from pangu_compile.driver.bf16 import compresses, from_bf16, to_bf16
from pangu_compile.driver.packing import pack, pack_parts, packed_bytes, quantise_q4, quantise_q8, unpack
from pangu_compile.errors import CompileError
from pangu_compile.ir import DType, TensorType

SHAPES = [(1, 1), (3, 31), (7, 32), (5, 33), (2, 3, 64), (4, 2, 100), (3, 300)]


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def whole(shape: tuple[int, ...], fmt: str) -> tuple[int, ...]:
    """The shape with as many rows more as the format wants together."""
    return (*shape[:-2], DType(fmt).rows_together * shape[-2], shape[-1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fmt", ["f32", "bf16", "bf16c", "q8", "q8i", "q4"])
def test_sizes_agree_with_the_ir(fmt: str, shape: tuple[int, ...]) -> None:
    shape = whole(shape, fmt)
    raw = pack(fmt, normal(shape))
    assert raw.nbytes == packed_bytes(fmt, shape) == TensorType(DType(fmt), shape).nbytes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fmt", ["f32", "bf16", "bf16c", "q8", "q8i", "q4"])
def test_values_on_the_grid_survive(fmt: str, shape: tuple[int, ...]) -> None:
    """Packing what was unpacked gives the same numbers."""
    shape = whole(shape, fmt)
    once = unpack(fmt, pack(fmt, normal(shape)), shape)
    twice = unpack(fmt, pack(fmt, once), shape)
    np.testing.assert_allclose(twice, once, rtol=1e-6 if fmt in ("q8", "q8i") else 1e-3 if fmt == "q4" else 0, atol=0)


def test_q8_is_the_nearest_integer_of_the_row_scale() -> None:
    rows = normal((40, 70))
    q, scale = quantise_q8(rows)
    np.testing.assert_array_equal(scale, np.abs(rows).max(1) / np.float32(127))
    assert np.abs(rows - q * scale[:, None]).max() <= scale.max() / 2 * (1 + 1e-5)
    raw = pack("q8", rows)
    np.testing.assert_array_equal(unpack("q8", raw, rows.shape), q.astype(np.float32) * scale[:, None])
    assert (raw[: 40 * 96].view(np.int8).reshape(40, 96)[:, 70:] == 0).all()


def test_q8i_is_q8_in_another_order() -> None:
    """Eight rows together: four columns of the first, then of the second, .."""
    rows = normal((24, 70))
    plain, eights = pack("q8", rows), pack("q8i", rows)
    np.testing.assert_array_equal(plain[24 * 96 :], eights[24 * 96 :])
    q = plain[: 24 * 96].reshape(24, 96)
    for o, i in ((0, 0), (1, 3), (7, 4), (8, 5), (23, 69), (13, 95)):
        assert eights[o // 8 * 8 * 96 + i // 4 * 32 + o % 8 * 4 + i % 4] == q[o, i]
    with pytest.raises(CompileError, match="no multiple of 8"):
        pack("q8i", rows[:20])


def test_q4_beats_the_plain_scale_in_every_group() -> None:
    groups = normal((500, 32))
    q, scale = quantise_q4(groups)
    assert q.min() >= -8 and q.max() <= 7
    error = ((groups - q * scale.astype(np.float32)[:, None]) ** 2).sum(1)
    plain = np.abs(groups).max(1, keepdims=True) / 7
    naive = ((groups - np.clip(np.rint(groups / plain), -8, 7) * plain) ** 2).sum(1)
    assert (error <= naive * 1.01).all() and error.mean() < 0.85 * naive.mean()


def test_q4_bytes() -> None:
    """Byte j of a group holds column j (low) and column j + 16 (high), as q + 8."""
    row = np.arange(32, dtype=np.float32)[None] % 16 - 8
    raw = pack("q4", row)
    q = ((raw[:16] & 15).tolist(), (raw[:16] >> 4).tolist())
    assert q == (list(range(16)), list(range(16))) and raw[64:].view(np.float16)[0] == 1.0


@pytest.mark.parametrize("fmt", ["q8", "q4"])
def test_zeros_and_tiny_values(fmt: str) -> None:
    values = np.zeros((3, 64), np.float32)
    values[1] = 1e-30
    values[2, 5] = 3.0
    got = unpack(fmt, pack(fmt, values), values.shape)
    assert (got[0] == 0).all() and np.isfinite(got).all()
    np.testing.assert_allclose(got[2], values[2], rtol=1e-3)


def test_bf16_rounds_to_nearest_even() -> None:
    # 1 + 2^-8 lies between 1 and 1 + 2^-7: to even; 1 + 3 * 2^-8 lies between 1 + 2^-7 and 1 + 2^-6: to even
    values = np.array([1.0, 1.00390625, 1.01171875, 1.00391, -2.5, np.inf, np.nan, 0.0], np.float32)
    expected = np.array([1.0, 1.0, 1.015625, 1.0078125, -2.5, np.inf, np.nan, 0.0], np.float32)
    np.testing.assert_array_equal(from_bf16(to_bf16(values)), expected)


@pytest.mark.parametrize("fmt", ["bf16", "bf16c", "q8", "q8i", "q4"])
def test_slices_threads_and_parts_give_the_same_bytes(fmt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = normal((8, 10, 40))
    at_once = pack(fmt, values)
    monkeypatch.setattr(packing, "SLICE", 130)
    parts = np.concatenate(list(pack_parts(fmt, values.shape, iter(values), "w", jobs=3)))
    np.testing.assert_array_equal(parts, at_once)


def test_refusals() -> None:
    bad = normal((2, 32))
    bad[1, 3] = np.inf
    with pytest.raises(CompileError, match="weight w holds NaN or infinity"):
        list(pack_parts("q4", bad.shape, [bad], "w"))
    with pytest.raises(CompileError, match="has 2 rows, planned 3"):
        list(pack_parts("q8", (3, 32), [normal((2, 32))], "w"))


def awkward(columns: int = 700) -> np.ndarray:
    """Rows of every kind that bf16c holds: weights far below the row's largest, zeros, subnormals, the largest finite numbers."""
    rows = normal((8, columns), 3)
    rows[1, ::150] *= 2.0**-20
    rows[2] *= 2.0**-130  # subnormal, most of them
    rows[2, 5:] = 0
    rows[3] = 0
    rows[4] *= 2.0**125 / np.abs(rows[4]).max()
    rows[5, [0, 130, 699]] = [2.0**-100, -(2.0**-126), 2.0**-140]
    rows[6] = np.ldexp(np.where(np.arange(columns) % 2, -1.5, 1.9), -(np.arange(columns) % 14))  # the whole window
    rows[7, 31], rows[7, 64] = 4.0 * 2.0**-14, -1.99 * 4.0 * 2.0**-13  # one step below it, and its last step, behind 4.0
    rows[7] = np.clip(rows[7], -4.0, 4.0)
    rows[7, 0] = 4.0
    return rows


def test_bf16c_keeps_every_number() -> None:
    rows = awkward()
    assert compresses(700, [rows[:2], rows[2:]], jobs=2)
    packed = unpack("bf16c", pack("bf16c", rows), rows.shape)
    np.testing.assert_array_equal(packed, from_bf16(to_bf16(rows)))


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_bf16c_refuses_what_it_cannot_hold(bad: float) -> None:
    rows = normal((4, 256))
    rows[1, 7] = bad
    assert not compresses(256, [rows])
    wide = normal((4, 256))
    wide[2, :3] *= 2.0**-30
    assert not compresses(256, [wide]) and compresses(256, [wide[:2]])
    with pytest.raises(CompileError, match="weight w "):
        pack_parts_bytes("bf16c", wide)
    with pytest.raises(CompileError, match="weight w has rows that are no multiple of 4; bf16c cannot hold it"):
        pack_parts_bytes("bf16c", normal((6, 256)))


def pack_parts_bytes(fmt: str, rows: np.ndarray) -> bytes:
    return b"".join(piece.tobytes() for piece in pack_parts(fmt, rows.shape, [rows], "w"))
