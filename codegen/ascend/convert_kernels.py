"""Rows in another type: bf16, float32, split, int8 with a scale per row; and sums of int8 products as float32."""

from __future__ import annotations

from .kernel import Argument, Kernel
from .platform import Platform
from .tiling import Buffer, TilingError, align, ceil_div
from .vector_kernels import F32, FACTORS, SIZES, element, reduce_work, tokens_kernel, ub_tile


def convert(chip: Platform, name: str, *, channels: int, x_type: str, y_type: str) -> Kernel:
    """x[T, C] -> y[T, C]: the same values in another one of bf16, float32 and split."""
    width = min(channels, 2048)
    pitch = align(width, 16)
    buffers = [
        Buffer("x", pitch * SIZES[x_type], depth=2),
        Buffer("y", pitch * SIZES[y_type], depth=2),
        Buffer("wide", pitch * F32),
        Buffer("back", pitch * F32),
    ]
    arguments = (Argument("x", x_type, f"tokens, {channels}"), Argument("y", y_type, f"tokens, {channels}", "out"))
    return tokens_kernel(
        name,
        "convert.cpp.jinja",
        "convert",
        arguments,
        channels=channels,
        width=width,
        x_type=x_type,
        y_type=y_type,
        x_element=element(x_type),
        y_element=element(y_type),
        tile=ub_tile(name, chip, buffers),
    )


def quantise(chip: Platform, name: str, *, channels: int, digits: int = 1) -> Kernel:
    """x[T, C] f32 -> y[T, digits C] int8 (the highest digits first), scale[T] f32 = max|x| / 127, / 32639, or / 8355584.

    The vendor's operator takes no float32.
    """
    pitch = align(channels, 16)

    def buffers(depth: int) -> list[Buffer]:
        return [
            Buffer("x", pitch * F32, depth=depth),
            Buffer("y", digits * align(channels, 32), depth=depth),
            Buffer("scale", F32, fixed=7 * F32, depth=2),
            Buffer("wide", pitch * F32),
            Buffer("magnitude", pitch * F32),
            Buffer("work", reduce_work(channels), fixed=32),
            FACTORS,
        ]

    depth = 2
    try:
        tile = ub_tile(name, chip, buffers(depth))
    except TilingError:
        depth = 1
        tile = ub_tile(name, chip, buffers(depth))
    arguments = (
        Argument("x", "float", f"tokens, {channels}"),
        Argument("y", "int8_t", f"tokens, {digits * channels}", "out"),
        Argument("scale", "float", "tokens", "out"),
    )
    return tokens_kernel(
        name, "quantise.cpp.jinja", "linear", arguments, channels=channels, digits=digits, pitch=pitch, depth=depth, tile=tile
    )


def dequantise(chip: Platform, name: str, *, columns: int, groups: int = 0, digits: int = 1) -> Kernel:
    """y[T, N] f32 = x[T, N] i32 * row_scale[T] * scale[N]; with `groups`, rows up to ends[g] have scale[g, N].

    Several digits: x[T, digits, N], and the sum of x[T, i] * 256^(digits - 1 - i) is what is scaled.
    """
    width = min(columns, 2048)
    pitch = align(width, 8)
    buffers = [
        Buffer("x", digits * pitch * F32, depth=2),
        Buffer("y", pitch * F32, depth=2),
        Buffer("scale", fixed=pitch * F32, depth=2),
        Buffer("factor", F32, fixed=7 * F32, depth=2),
        Buffer("spread", 8 * F32, fixed=7 * 8 * F32),
        *((Buffer("lower", pitch * F32),) if digits > 1 else ()),
    ]
    arguments = (
        Argument("x", "int32_t", f"tokens, {digits * columns}"),
        Argument("row_scale", "float", "tokens"),
        Argument("scale", "float", f"{max(groups, 1)}, {columns}"),
        *((Argument("ends", "int32_t", f"{groups}", note="one past the last row of each group"),) if groups else ()),
        Argument("y", "float", f"tokens, {columns}", "out"),
    )
    chunks = ceil_div(columns, width)
    return tokens_kernel(
        name, "dequantise.cpp.jinja", "linear", arguments, units=f"t.tokens * {chunks}u", columns=columns, width=width,
        chunks=chunks, groups=groups, digits=digits, tile=ub_tile(name, chip, buffers),
    )  # fmt: skip
