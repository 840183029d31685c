"""The tiling solver and the splits of work: budgets, alignment, all the work, odd sizes."""

from __future__ import annotations

import dataclasses
import re

import catalogue
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu_compile.codegen.ascend.attention_kernels import attention
from pangu_compile.codegen.ascend.platform import TARGETS, platform
from pangu_compile.codegen.ascend.stream_kernels import Post, Pre, mhc
from pangu_compile.codegen.ascend.tiling import BLOCK, Buffer, TilingError, align, solve
from pangu_compile.codegen.ascend.vector_kernels import conv_norm, factor_bytes, rms_norm, rotary, swiglu

CHIP = catalogue.CHIP
BUFFERS = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 5000), st.integers(1, 2)), min_size=1, max_size=6)


@given(BUFFERS, st.integers(1, 200_000), st.integers(1, 255))
def test_the_tile_fits_and_one_more_row_would_not(shapes: list[tuple[int, int, int]], capacity: int, limit: int) -> None:
    buffers = [Buffer(f"b{i}", per_row, fixed, depth) for i, (per_row, fixed, depth) in enumerate(shapes)]

    def total(rows: int) -> int:
        return sum(b.depth * b.slot(rows) for b in buffers)

    try:
        tile = solve("k", "UB", capacity, buffers, limit)
    except TilingError as error:
        assert total(1) > capacity and "k: one row needs" in str(error)
        return
    assert 1 <= tile.rows <= limit and tile.total == total(tile.rows) <= capacity
    assert tile.rows == limit or total(tile.rows + 1) > capacity
    assert all(size % BLOCK == 0 and size >= BLOCK for size in tile.bytes.values())


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        solve("k", "UB", 1000, [Buffer("a", 4), Buffer("a", 4)])


@given(st.integers(1, 300))
def test_row_factors_fit_their_budget(rows: int) -> None:
    from pangu_compile.codegen.ascend.vector_kernels import FACTORS

    assert FACTORS.slot(rows) >= factor_bytes(rows)


@pytest.mark.parametrize("name", list(catalogue.KERNELS))
def test_every_budget_is_asserted_in_the_source(name: str) -> None:
    source = catalogue.KERNELS[name].source
    budgets = re.findall(r"static_assert\((.*?), \"(?:UB|cube) budgets?\"\)", source)
    assert budgets
    for condition in " && ".join(budgets).split(" && "):
        used, capacity = (int(n) for n in condition.split(" <= "))
        assert 0 < used <= capacity <= max(CHIP.ub, CHIP.l1)


@given(st.integers(1, 16000), st.integers(0, 3))
def test_norms_of_any_width_have_a_tile_or_say_why_not(channels: int, digits: int) -> None:
    try:
        kernel = rms_norm(CHIP, "k", channels=channels, eps=1e-5, digits=digits)
    except TilingError as error:
        assert channels > 6000 and "split the row" in str(error)
        return
    assert f"kCols = {channels}, kPitch = {align(channels, 16)}" in kernel.source


@given(st.integers(1, 8), st.integers(1, 5120), st.booleans(), st.booleans())
def test_streams_up_to_the_large_model(streams: int, hidden: int, block: bool, post: bool) -> None:
    pre = Pre(1e-5, 1e-6, True, 20, 1e-5)
    try:
        mhc(CHIP, "k", streams=streams, hidden=hidden, pre=pre, post=Post(1e-5, 1e-5 if block else None) if post else None)
    except TilingError:
        assert streams > 5


@given(
    st.integers(1, 128),
    st.integers(1, 512),
    st.integers(1, 64),
    st.sampled_from(["swa", "dense", "dsa"]),
    st.sampled_from(["bfloat16_t", "split"]),
)
def test_attention_tiles_fit_the_cube_core(heads: int, latent: int, half: int, kind: str, row_type: str) -> None:
    sizes = {"heads": heads, "width": latent + 2 * half, "latent": latent, "window": 9, "ring": 9, "top": 64}
    kernel = attention(CHIP, "k", kind=kind, sinks=0, scale=1.0, row_type=row_type, **sizes)
    tasks = re.search(r"kTaskTokens = (\d+), kTaskHeads = (\d+)", kernel.source)
    assert tasks and int(tasks[1]) >= 1 and int(tasks[2]) == min(heads, int(tasks[2]))


@pytest.mark.parametrize(
    "build",
    [
        lambda: rotary(CHIP, "k", heads=2, channels=20, dim=7, offset=0),
        lambda: rotary(CHIP, "k", heads=2, channels=20, dim=130, offset=0),
        lambda: conv_norm(CHIP, "k", channels=8, taps=4, ring=2),
        lambda: conv_norm(CHIP, "k", channels=8, rotary=2),
        lambda: swiglu(CHIP, "k", width=200_000, digits=1),
        lambda: mhc(CHIP, "k", streams=9, hidden=8, post=Post()),
        lambda: attention(CHIP, "k", kind="swa", heads=1, width=8, latent=8, sinks=0, scale=1.0, window=8, ring=3),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_kernel(build: object) -> None:
    with pytest.raises(TilingError, match=r"^k: ") as caught:
        build()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_the_smallest_chip_of_a_family_is_the_target() -> None:
    for target in TARGETS:
        chip = platform(target)
        assert chip.vector_cores == 2 * chip.cores and chip.ub == 196608
    with pytest.raises(KeyError, match="unknown chip"):
        platform("ascend310")


def test_kernels_do_not_name_a_core_count() -> None:
    """Other members of the family differ in nothing but their cores, which are read at run time."""
    large = dataclasses.replace(platform("Ascend910B1"))
    for name, (builder, spec) in catalogue.SPECS.items():
        assert builder(large, name, **spec).source == catalogue.KERNELS[name].source
