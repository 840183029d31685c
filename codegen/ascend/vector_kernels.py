"""Vector kernels over rows of activations: norms, quantisation, SwiGLU, convolution, rotary embedding, gates.

Activations are bf16 in global memory, parameters (norm weights, convolution taps, biases) float32; arithmetic is float32.
The token count is a run-time tiling field; everything else is fixed when the kernel is generated.
"""

from __future__ import annotations

from typing import Any

from .kernel import Argument, Kernel, render
from .platform import Platform
from .tiling import Buffer, Tile, align, ceil_div, solve

F32 = 4
BF16 = 2
RESERVE = 4096  # bytes of UB that the toolkit's own calls may need


def reduce_work(columns: int, per: int = F32) -> int:
    """Bytes per row of the work tensor of reduce_rows (pangu_vector.h, work_floats)."""
    groups = ceil_div(columns, 64)
    return 0 if groups == 1 else (align(groups, 8) + 8) * per


def factor_bytes(rows: int) -> int:
    """Bytes of RowFactors<rows> (pangu_vector.h)."""
    padded = align(rows, 8)
    return (2 * padded + padded * 8) * F32


FACTORS = Buffer("factors", per_row=10 * F32, fixed=7 * 10 * F32)  # at least factor_bytes(rows)


def ub_tile(name: str, chip: Platform, buffers: list[Buffer], limit: int = 128) -> Tile:
    return solve(name, "UB", chip.ub - RESERVE, buffers, limit)


def struct_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_")) + "Tiling"


def tokens_kernel(name: str, template: str, op: str, arguments: tuple[Argument, ...], fields: tuple[str, ...] = ("tokens",),
                  units: str = "t.tokens", core: str = "aiv", planned: tuple[tuple[str, str], ...] = (), **values: Any) -> Kernel:  # fmt: skip
    """Renders `template`, which sees the kernel's name and struct and `values`."""
    source = render(template, name=name, struct=struct_name(name), **values)
    return Kernel(name, source, arguments, fields, units, core=core, planned=planned, op=op)


def rms_norm(chip: Platform, name: str, *, channels: int, eps: float, quantise: bool = False) -> Kernel:
    """x[T, C] bf16, gamma[C] f32 -> y[T, C] bf16; with `quantise` y is int8 and scale[T] f32 = max|y| / 127."""
    pitch = align(channels, 16)
    buffers = [
        Buffer("x", pitch * BF16, depth=2),
        Buffer("y", align(channels, 32) if quantise else pitch * BF16, depth=2),
        Buffer("gamma", fixed=align(channels, 8) * F32),
        Buffer("wide", pitch * F32),
        Buffer("square", pitch * F32),
        Buffer("work", reduce_work(channels), fixed=32),
        FACTORS,
    ]
    if quantise:
        buffers.append(Buffer("scale", F32, fixed=7 * F32, depth=2))
    tile = ub_tile(name, chip, buffers)
    arguments = (
        Argument("x", "bfloat16_t", f"tokens, {channels}"),
        Argument("gamma", "float", f"{channels}"),
        Argument("y", "int8_t" if quantise else "bfloat16_t", f"tokens, {channels}", "out"),
        *((Argument("scale", "float", "tokens", "out"),) if quantise else ()),
    )
    return tokens_kernel(name, "rms_norm.cpp.jinja", "rms_norm", arguments, channels=channels, pitch=pitch, eps=eps,
                         quantise=quantise, tile=tile, out_type=arguments[2].dtype)  # fmt: skip
