"""Kernels that keep the rules compute what numpy computes."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import Simulation, unwritten


def bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 to the bits of bfloat16, to nearest even."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widened(bits: np.ndarray) -> np.ndarray:
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize(("total", "tile", "blocks"), [(1, 64, 1), (1000, 64, 4), (4099, 128, 48), (7, 512, 8)])
def test_vector_add_with_tails(simulation: Simulation, total: int, tile: int, blocks: int) -> None:
    random = np.random.default_rng(total)
    x, y = random.standard_normal((2, total)).astype(np.float32)
    z = unwritten(total, np.float32)
    report = simulation.kernels("vector_add").launch("vector_add", blocks, x=x, y=y, z=z, total=total, tile=tile)
    np.testing.assert_array_equal(z, x + y)
    assert report["kind"] == "AIV" and report["blocks"] == blocks
    assert report["gm_read_bytes"] == 8 * total and report["gm_written_bytes"] == 4 * total
    assert report["pipes"]["V"]["instructions"] > 0 and report["seconds"] > 0


def test_double_buffering_shows_in_the_estimate(simulation: Simulation) -> None:
    """Twice the tiles of half the size: more copies, but they overlap, so the time grows by less than the copies."""
    x = np.ones(32768, np.float32)
    report = simulation.kernels("vector_add").launch("vector_add", 1, x=x, y=x.copy(), z=unwritten(32768, np.float32), total=32768,
                                                     tile=2048)
    busy = sum(pipe["busy_cycles"] for pipe in report["pipes"].values())
    slowest = max(pipe["busy_cycles"] for pipe in report["pipes"].values())
    assert slowest <= report["cycles"] < 0.8 * busy


@pytest.mark.parametrize("count", [64, 129, 1000, 4096])
def test_reductions(simulation: Simulation, count: int) -> None:
    x = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    x[count // 2] = x[count // 3] = 9.0  # a tie: the lower index wins
    out, repeats = unwritten(4, np.float32), unwritten(count // 64, np.float32)
    simulation.kernels("vector_math").launch("reduce", 1, x=x, out=out, repeats=repeats, count=count)
    assert out[0] == pytest.approx(float(x.astype(np.float64).sum()), rel=1e-5, abs=1e-3)
    assert out[1] == x.max() and int(out.view(np.uint32)[2]) == int(x.argmax()) and out[3] == x.min()
    whole = x[: count // 64 * 64].reshape(-1, 64).sum(axis=1)
    np.testing.assert_allclose(repeats, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 16, 100, 4096])
def test_bfloat16_casts_round_to_even(simulation: Simulation, count: int) -> None:
    x = bfloat16(np.random.default_rng(count).standard_normal(count) * 100)
    scale = np.array([1 / 3], np.float32)
    out = unwritten(count, np.uint16)
    simulation.kernels("vector_math").launch("scale_bf16", 1, x=x, scale=scale, out=out, count=count)
    np.testing.assert_array_equal(out, bfloat16(widened(x) * scale[0]))


@pytest.mark.parametrize("values", ["random", "ties", "equal"])
def test_sort_is_descending_and_stable(simulation: Simulation, values: str) -> None:
    random = np.random.default_rng(3)
    scores = {"random": random.standard_normal(128), "ties": random.integers(0, 5, 128), "equal": np.ones(128)}[values]
    scores = scores.astype(np.float32)
    sorted_scores, indices = unwritten(128, np.float32), unwritten(128, np.int32)
    simulation.kernels("vector_math").launch("sort_128", 1, x=scores, values=sorted_scores, indices=indices)
    order = np.argsort(-scores, kind="stable")
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(sorted_scores, scores[order])


@pytest.mark.parametrize("count", [64, 512, 4096])
def test_compare_select_and_gather_by_mask(simulation: Simulation, count: int) -> None:
    x = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    out, kept, kept_count = unwritten(count, np.float32), unwritten(count, np.float32), unwritten(1, np.int32)
    simulation.kernels("vector_math").launch("select_positive", 1, x=x, out=out, kept=kept, kept_count=kept_count, count=count)
    np.testing.assert_allclose(out, np.where(x > 0, np.exp(x), -1), rtol=1e-6)
    assert kept_count[0] == (x > 0).sum()
    np.testing.assert_array_equal(kept[: kept_count[0]], x[x > 0])


def test_strided_repeats_and_broadcast(simulation: Simulation) -> None:
    x = np.random.default_rng(5).uniform(1, 2, (16, 64)).astype(np.float32)
    out, broadcast = unwritten((16, 64), np.float32), unwritten((16, 8), np.float32)
    simulation.kernels("vector_math").launch("normalise_rows", 1, x=x, out=out, broadcast=broadcast, rows=16)
    np.testing.assert_array_equal(out, x / x[:, :1])
    np.testing.assert_array_equal(broadcast, np.repeat(x[:, :1], 8, axis=1))


@pytest.mark.parametrize("cores", [2, 48])
def test_atomic_sum_over_cores(simulation: Simulation, cores: int) -> None:
    rows = np.random.default_rng(cores).integers(-9, 9, (cores, 64)).astype(np.float32)
    out = np.ones(64, np.float32)
    simulation.kernels("several_cores").launch("atomic_rows", cores, rows=rows, out=out, width=64)
    np.testing.assert_array_equal(out, 1 + rows.sum(axis=0))


@pytest.mark.parametrize("cores", [2, 40])
def test_cores_meet_and_exchange(simulation: Simulation, cores: int) -> None:
    rows = np.random.default_rng(cores).standard_normal((cores, 8)).astype(np.float32)
    exchange, out = unwritten((cores, 8), np.float32), unwritten((cores, 8), np.float32)
    simulation.kernels("several_cores").launch("rotate_rows", cores, rows=rows, exchange=exchange, out=out, width=8)
    np.testing.assert_array_equal(out, np.roll(rows, -1, axis=0))


def test_cube_core_feeds_its_vector_cores(simulation: Simulation) -> None:
    random = np.random.default_rng(8)
    a, b = random.standard_normal((2, 16, 16)).astype(np.float16)
    product, out = unwritten((16, 16), np.float32), unwritten((16, 16), np.float32)
    report = simulation.kernels("several_cores").launch("cube_then_vector", 1, a=a, b=b, product=product, out=out)
    np.testing.assert_allclose(out, 2 * (a.astype(np.float32) @ b.astype(np.float32)), rtol=1e-5, atol=1e-5)
    assert report["kind"] == "MIX_AIC_1_2"


@pytest.mark.parametrize(("m", "n", "k"), [(16, 16, 16), (48, 64, 192), (33, 48, 100), (128, 32, 70), (5, 16, 64)])
def test_matmul(simulation: Simulation, m: int, n: int, k: int) -> None:
    random = np.random.default_rng(m)
    a, b = random.standard_normal((m, k)).astype(np.float16), random.standard_normal((k, n)).astype(np.float16)
    c = unwritten((m, n), np.float32)
    report = simulation.kernels("matmul").launch("matmul_half", 1, a=a, b=b, c=c, m=m, n=n, k=k)
    np.testing.assert_allclose(c, a.astype(np.float64) @ b.astype(np.float64), rtol=1e-4, atol=1e-4)
    assert report["pipes"]["M"]["bytes"] == 2 * m * n * k


def test_matmul_to_bfloat16(simulation: Simulation) -> None:
    random = np.random.default_rng(1)
    a, b = bfloat16(random.standard_normal((32, 64))), bfloat16(random.standard_normal((64, 16)))
    c = unwritten((32, 16), np.uint16)
    simulation.kernels("matmul").launch("matmul_bf16", 1, a=a, b=b, c=c, m=32, n=16, k=64)
    expected = widened(a).astype(np.float64) @ widened(b).astype(np.float64)
    np.testing.assert_allclose(widened(c), expected, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize(("m", "n", "k"), [(16, 32, 32), (48, 96, 128)])
def test_matmul_int8_with_a_transposed_operand(simulation: Simulation, m: int, n: int, k: int) -> None:
    random = np.random.default_rng(n)
    a, b = random.integers(-128, 128, (m, k)).astype(np.int8), random.integers(-128, 128, (k, n)).astype(np.int8)
    c = unwritten((m, n), np.int32)
    simulation.kernels("matmul").launch("matmul_int8", 1, a=a, b=b, c=c, m=m, n=n, k=k)
    np.testing.assert_array_equal(c, a.astype(np.int32) @ b.astype(np.int32))


def test_transposes(simulation: Simulation) -> None:
    x = np.random.default_rng(2).standard_normal((16, 16)).astype(np.float16)
    once, again = unwritten((16, 16), np.float16), unwritten((16, 16), np.float16)
    simulation.kernels("vector_math").launch("transpose_16", 1, x=x, once=once, again=again)
    np.testing.assert_array_equal(once, x.T)
    np.testing.assert_array_equal(again, x)


@pytest.mark.parametrize("count", [1, 64, 1000])
def test_gather(simulation: Simulation, count: int) -> None:
    random = np.random.default_rng(count)
    x, index = random.standard_normal(4096).astype(np.float32), random.integers(0, 4096, count).astype(np.int32)
    out = unwritten(count, np.float32)
    simulation.kernels("vector_math").launch("gather_elements", 1, x=x, index=index, out=out, count=count)
    np.testing.assert_array_equal(out, x[index])
