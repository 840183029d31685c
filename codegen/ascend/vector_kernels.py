"""Vector kernels over rows of activations: norms, quantisation, SwiGLU, convolution, rotary embedding, gates.

Activations are bf16, float32 or split (host/values.py) in global memory, parameters (norm weights, convolution taps, biases)
float32; arithmetic is float32. The token count is a run-time tiling field; everything else is fixed when the kernel is generated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .kernel import Argument, Kernel, render, struct_name
from .platform import Platform
from .tiling import Buffer, Tile, TilingError, align, ceil_div, solve

F32 = 4
BF16 = 2
SIZES = {"bfloat16_t": BF16, "float": F32, "split": 2 * BF16}
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


def cores_per_token(limit: int) -> str:
    """C expression of the host plan: how many cores, at most `limit`, share a token where tokens are few."""
    return f"std::min<uint32_t>({limit}u, std::max<uint32_t>(1u, cores / std::max<uint32_t>(1u, t.tokens)))"


def tokens_kernel(
    name: str,
    template: str,
    op: str,
    arguments: tuple[Argument, ...],
    fields: tuple[str, ...] = ("tokens",),
    units: str = "t.tokens",
    core: str = "aiv",
    planned: tuple[tuple[str, str], ...] = (),
    **values: Any,
) -> Kernel:
    """Renders `template`, which sees the kernel's name and struct and `values`."""
    source = render(template, name=name, struct=struct_name(name), op=op, arguments=arguments, **values)
    return Kernel(name, source, arguments, fields, units, core=core, planned=planned, op=op)


def rms_norm(
    chip: Platform, name: str, *, channels: int, eps: float, digits: int = 0, x_type: str = "bfloat16_t",
    y_type: str = "bfloat16_t",
) -> Kernel:  # fmt: skip
    """x[T, C] bf16 or float32, gamma[C] f32 -> y[T, C] of `y_type`; with `digits` y[T, digits C] int8 and scale[T] f32."""
    pitch, y_type = align(channels, 16), "int8_t" if digits else y_type
    buffers = [
        Buffer("x", pitch * SIZES[x_type], depth=2),
        Buffer("y", digits * align(channels, 32) or pitch * SIZES[y_type], depth=2),
        Buffer("gamma", fixed=align(channels, 8) * F32),
        Buffer("wide", pitch * F32),
        Buffer("square", pitch * F32),
        Buffer("work", reduce_work(channels), fixed=32),
        FACTORS,
    ]
    if digits:
        buffers.append(Buffer("scale", F32, fixed=7 * F32, depth=2))
    tile = ub_tile(name, chip, buffers)
    arguments = (
        Argument("x", x_type, f"tokens, {channels}"),
        Argument("gamma", "float", f"{channels}"),
        Argument("y", y_type, f"tokens, {max(digits, 1) * channels}", "out"),
        *((Argument("scale", "float", "tokens", "out"),) if digits else ()),
    )
    return tokens_kernel(
        name,
        "rms_norm.cpp.jinja",
        "rms_norm",
        arguments,
        channels=channels,
        pitch=pitch,
        eps=eps,
        digits=digits,
        tile=tile,
        x_type=x_type,
        split=y_type == "split",
        out_type=element(y_type),
    )


def element(dtype: str) -> str:
    """C type in memory of an argument's elements."""
    return "bfloat16_t" if dtype == "split" else dtype


@dataclass(frozen=True)
class RotaryPart:
    """Rotary embedding of 2 * `half` channels."""

    half: int

    @property
    def pitch(self) -> int:
        return align(self.half, 16)

    @classmethod
    def of(cls, kernel: str, channels: int) -> RotaryPart:
        if channels % 2 or not 2 <= channels <= 128:
            raise TilingError(f"{kernel}: rotary embedding of {channels} channels; even numbers up to 128 are supported")
        return cls(channels // 2)


def _turn_buffers(part: RotaryPart, heads: int, x_type: str, y_type: str) -> list[Buffer]:
    row = heads * part.pitch
    return [
        Buffer("pair", 2 * row * SIZES[x_type], depth=2),
        Buffer("table", 2 * part.pitch * F32, depth=2),
        Buffer("turned", 2 * row * SIZES[y_type], depth=2),
        Buffer("turn", 5 * row * F32),
    ]


def conv_norm(
    chip: Platform,
    name: str,
    *,
    channels: int,
    taps: int = 0,
    ring: int = 0,
    norm_eps: float | None = None,
    rotary: int = 0,
    x_pitch: int = 0,
    y_pitch: int = 0,
    x_type: str = "bfloat16_t",
    y_type: str = "bfloat16_t",
) -> Kernel:
    """MoME convolution with ring state, RMS norm, rotary embedding of the channels after them: whichever are asked for.

    x[T, C (+ rotary)] -> rows `row`.. of y[.., C (+ rotary)]; weight[k, C] f32 is the OpDef's [C, 1, k] transposed. x and the
    ring are bf16 or float32, y is those or split.
    Pitches are the distance of rows in global memory, C + rotary unless given. Channels are split over cores as well where
    nothing needs the whole row.
    """
    norm = norm_eps is not None
    if rotary and not norm:
        raise TilingError(f"{name}: rotary channels come with a norm before them")
    if rotary and y_type == "float":
        raise TilingError(f"{name}: rows with rotary channels are bf16 or split")
    if taps and ring < taps - 1:
        raise TilingError(f"{name}: a ring of {ring} rows for {taps} taps; at least {taps - 1}")
    x_pitch, y_pitch = x_pitch or channels + rotary, y_pitch or channels + rotary
    width = channels if norm else min(channels, 1024)
    pitch, history = align(width, 16), max(taps - 1, 0)
    buffers = [
        Buffer("x", pitch * SIZES[x_type], fixed=history * pitch * SIZES[x_type], depth=2),
        Buffer("y", pitch * SIZES[y_type], depth=2),
        Buffer("wide", pitch * F32, fixed=history * pitch * F32),
        Buffer("sum", pitch * F32),
    ]
    if taps:
        buffers += [Buffer("weight", fixed=taps * pitch * F32), Buffer("ring", fixed=ring * pitch * SIZES[x_type])]
    if norm:
        buffers += [Buffer("gamma", fixed=pitch * F32), Buffer("work", reduce_work(channels), fixed=32), FACTORS]
    part = RotaryPart.of(name, rotary) if rotary else None
    if part:
        buffers += _turn_buffers(part, 1, x_type, y_type)
    arguments = [Argument("x", x_type, f"tokens, {x_pitch}")]
    if taps:
        arguments += [
            Argument("weight", "float", f"{taps}, {channels}", note="transposed: tap by tap"),
            Argument("ring", x_type, f"{ring}, {channels}", "inout"),
        ]
    if norm:
        arguments.append(Argument("gamma", "float", f"{channels}"))
    if part:
        arguments.append(Argument("table", "float", f"tokens, {rotary}"))
    arguments.append(Argument("y", y_type, f"row, {y_pitch} + tokens, {y_pitch}", "out"))
    fields = ("tokens", "row", *(("start",) if taps else ()), *(() if norm else ("slices",)))
    parts = f"std::max<uint32_t>(1u, t.tokens / {taps - 1}u)" if taps > 1 else "std::max<uint32_t>(1u, t.tokens)"
    slices = f"std::min<uint32_t>({ceil_div(channels, 64)}u, std::max<uint32_t>(1u, cores / {parts}))"
    return tokens_kernel(
        name,
        "conv_norm.cpp.jinja",
        "mome_conv" if not norm else "mla_prologue",
        tuple(arguments),
        fields,
        units=parts if norm else f"{parts} * t.slices",
        planned=() if norm else (("slices", slices),),
        channels=channels,
        width=width,
        taps=taps,
        ring=ring,
        norm=norm,
        eps=norm_eps or 0.0,
        rotary=part,
        x_pitch=x_pitch,
        y_pitch=y_pitch,
        x_type=x_type,
        y_type=y_type,
        y_element=element(y_type),
        tile=ub_tile(name, chip, buffers),
    )


REST = 32768  # bytes of UB for channels that a rotary embedding leaves alone


def rotary(chip: Platform, name: str, *, heads: int, channels: int, dim: int, offset: int, split: bool = False) -> Kernel:
    """Half rotation of `dim` channels from `offset` on of x[T, heads, D]; table[T, dim] f32, cos then sin.

    bf16 in place, or with `split` from x float32 to y[T, heads, D] split, which has all channels.
    """
    part = RotaryPart.of(name, dim)
    if heads > 255 or not 0 <= offset <= channels - dim:
        raise TilingError(f"{name}: {dim} channels from {offset} on of {heads} heads of {channels}")
    x_type, y_type = ("float", "split") if split else ("bfloat16_t", "bfloat16_t")
    buffers = _turn_buffers(part, heads, x_type, y_type)
    rest = [(begin, end - begin) for begin, end in ((0, offset), (offset + dim, channels)) if begin < end]
    rest_pitch = align(max((cols for _, cols in rest), default=16), 16)
    rest_rows = max(1, REST // (6 * rest_pitch * F32))
    if split:
        row = rest_rows * rest_pitch * F32
        buffers += [Buffer("rest", fixed=row, depth=2), Buffer("parts", fixed=row, depth=2), Buffer("wide", fixed=row)]
        buffers.append(Buffer("back", fixed=row))
    arguments = [
        Argument("x", x_type, f"tokens, {heads}, {channels}", "in" if split else "inout"),
        Argument("table", "float", f"tokens, {dim}"),
    ]
    if split:
        arguments.append(Argument("y", y_type, f"tokens, {heads}, {channels}", "out"))
    return tokens_kernel(
        name,
        "rotary.cpp.jinja",
        "rotary",
        tuple(arguments),
        heads=heads,
        channels=channels,
        half=part.half,
        offset=offset,
        split=split,
        x_type=x_type,
        rest=rest,
        rest_pitch=rest_pitch,
        rest_rows=rest_rows,
        tile=ub_tile(name, chip, buffers, limit=255 // heads),
    )


def index_key(
    chip: Platform,
    name: str,
    *,
    channels: int,
    dim: int,
    eps: float,
    bias: bool = False,
    x_type: str = "bfloat16_t",
    y_type: str = "bfloat16_t",
) -> Kernel:
    """x[T, di] -> norm, rotary embedding of the first `dim` channels -> rows `row`.. of cache[.., di].

    x is bf16 or float32, the cache bf16 or split.
    """
    part = RotaryPart.of(name, dim)
    pitch, rest = align(channels, 16), channels - dim
    rest_pitch = max(16, align(rest, 16))
    row = 2 * part.pitch + rest_pitch
    buffers = [
        Buffer("x", pitch * SIZES[x_type], depth=2),
        Buffer("parts", row * SIZES[x_type], depth=2),
        Buffer("table", 2 * part.pitch * F32, depth=2),
        Buffer("y", row * SIZES[y_type], depth=2),
        Buffer("parameters", fixed=(2 if bias else 1) * row * F32),
        Buffer("wide", pitch * F32),
        Buffer("square", pitch * F32),
        Buffer("wide_parts", (row + 3 * part.pitch) * F32),
        Buffer("work", reduce_work(channels), fixed=32),
        FACTORS,
    ]
    if bias:
        buffers.append(Buffer("means", FACTORS.per_row, fixed=FACTORS.fixed))
    arguments = (
        Argument("x", x_type, f"tokens, {channels}"),
        Argument("gamma", "float", f"{channels}"),
        *((Argument("beta", "float", f"{channels}"),) if bias else ()),
        Argument("table", "float", f"tokens, {dim}"),
        Argument("cache", y_type, f"row, {channels} + tokens, {channels}", "out"),
    )
    return tokens_kernel(
        name,
        "index_key.cpp.jinja",
        "index_prologue",
        arguments,
        ("tokens", "row"),
        channels=channels,
        pitch=pitch,
        rest_pitch=rest_pitch,
        half=part.half,
        eps=eps,
        bias=bias,
        x_type=x_type,
        y_type=y_type,
        tile=ub_tile(name, chip, buffers),
    )


def query_rows(chip: Platform, name: str, *, heads: int, width: int, latent: int, rope: int) -> Kernel:
    """x[T, h, C] f32, the absorbed query, and the last r channels of q[T, h, n + r] split -> y[T, h, C + r] split."""
    pitch, rope_pitch = align(latent, 16), align(rope, 16)
    buffers = [
        Buffer("x", pitch * F32, depth=2),
        Buffer("y", pitch * 2 * BF16, depth=2),
        Buffer("rope", rope_pitch * 2 * BF16, depth=2),
        Buffer("wide", pitch * F32),
        Buffer("back", pitch * F32),
    ]
    arguments = (
        Argument("x", "float", f"tokens, {heads}, {latent}"),
        Argument("q", "split", f"tokens, {heads}, {width}"),
        Argument("y", "split", f"tokens, {heads}, {latent + rope}", "out"),
    )
    return tokens_kernel(
        name,
        "query_rows.cpp.jinja",
        "attention",
        arguments,
        units=f"t.tokens * {heads}u",
        heads=heads,
        width=width,
        latent=latent,
        rope=rope,
        pitch=pitch,
        rope_pitch=rope_pitch,
        tile=ub_tile(name, chip, buffers),
    )


def swiglu(
    chip: Platform, name: str, *, width: int, digits: int = 0, x_type: str = "bfloat16_t", y_type: str = "bfloat16_t"
) -> Kernel:
    """x[T, 2F] of `x_type` (bf16 or float32), gate first -> silu(gate) * up: y[T, F] bf16 or split, or with `digits`
    y[T, digits F] int8 and scale[T] f32."""
    pitch, y_type = align(width, 16), "int8_t" if digits else y_type

    def buffers(chunk: int, depth: int) -> list[Buffer]:
        # quantise_rows needs a whole row and its magnitudes
        part = align(min(chunk, width), 16)
        held = pitch if digits else part
        result = [
            Buffer("gate", part * SIZES[x_type], depth=2),
            Buffer("up", part * SIZES[x_type], depth=2),
            Buffer("y", digits * align(width, 32) or part * SIZES[y_type], depth=depth),
            Buffer("product", held * F32),
            Buffer("temporary", held * F32),
        ]
        if digits:
            result += [Buffer("scale", F32, fixed=7 * F32, depth=2), Buffer("work", reduce_work(width), fixed=32), FACTORS]
        return result

    chunk, depth, tile = width, 2, None
    while tile is None:
        try:
            tile = ub_tile(name, chip, buffers(chunk, depth), 128 if chunk >= width else 1)
        except TilingError:
            if chunk <= 1024 and depth == 1:
                raise
            chunk, depth = (4096, 2) if chunk > 4096 else (1024, 1)
    arguments = (
        Argument("x", x_type, f"tokens, {2 * width}"),
        Argument("y", y_type, f"tokens, {max(digits, 1) * width}", "out"),
        *((Argument("scale", "float", "tokens", "out"),) if digits else ()),
    )
    return tokens_kernel(
        name,
        "swiglu.cpp.jinja",
        "dense_ffn",
        arguments,
        width=width,
        pitch=pitch,
        chunk=min(chunk, width),
        out_depth=depth,
        digits=digits,
        x_type=x_type,
        split=y_type == "split",
        tile=tile,
        out_type=element(y_type),
    )


def residual(
    chip: Platform,
    name: str,
    *,
    channels: int,
    out_eps: float | None = None,
    block_eps: float | None = None,
    norm_eps: float | None = None,
    stream_type: str = "bfloat16_t",
    out_type: str = "bfloat16_t",
    y_type: str = "bfloat16_t",
    wide_y: bool = False,
) -> Kernel:
    """x[T, C] + norm(out) -> new_x, normed by block_norm where it has an epsilon; y is that under `norm`.

    x and new_x are of `stream_type`, out of `out_type` (bf16 or float32), y those or split (y_wide: the same as float32), weights
    float32.
    """
    pitch, result = align(channels, 16), max(SIZES[stream_type], SIZES[y_type], F32 if wide_y else 0)
    norms = [n for n, eps in (("out_norm", out_eps), ("block_norm", block_eps), ("norm", norm_eps)) if eps is not None]
    buffers = [
        Buffer("in", pitch * (SIZES[stream_type] + SIZES[out_type]), depth=2),
        Buffer("result", pitch * result, depth=2),
        Buffer("sum", pitch * F32),
        Buffer("branch", pitch * F32),
    ]
    if norms:
        buffers += [Buffer("gamma", fixed=len(norms) * pitch * F32), Buffer("work", reduce_work(channels), fixed=32), FACTORS]
    if out_eps is not None:
        buffers.append(Buffer("square", pitch * F32))
    arguments = (
        Argument("x", stream_type, f"tokens, {channels}"),
        Argument("out", out_type, f"tokens, {channels}"),
        *(Argument(n, "float", f"{channels}") for n in norms),
        Argument("new_x", stream_type, f"tokens, {channels}", "out"),
        *((Argument("y", y_type, f"tokens, {channels}", "out"),) if norm_eps is not None else ()),
        *((Argument("y_wide", "float", f"tokens, {channels}", "out"),) if wide_y else ()),
    )
    return tokens_kernel(
        name,
        "residual.cpp.jinja",
        "residual",
        arguments,
        channels=channels,
        pitch=pitch,
        norms=norms,
        out_norm=out_eps is not None,
        block_norm=block_eps is not None,
        norm=norm_eps is not None,
        stream_type=stream_type,
        out_type=out_type,
        y_element=element(y_type),
        split=y_type == "split",
        wide_y=wide_y,
        out_eps=out_eps or 0.0,
        block_eps=block_eps or 0.0,
        norm_eps=norm_eps or 0.0,
        tile=ub_tile(name, chip, buffers),
    )


def ring_write(chip: Platform, name: str, *, channels: int, ring: int, row_type: str = "bfloat16_t") -> Kernel:
    """The last rows of x[T, C], bf16 or split, into ring[R, C]; runs after everything that reads the ring."""
    columns = channels * SIZES[row_type] // BF16
    pitch = align(columns, 16)
    tile = ub_tile(name, chip, [Buffer("rows", pitch * BF16, depth=2)], 64)
    arguments = (Argument("x", row_type, f"tokens, {channels}"), Argument("ring", row_type, f"{ring}, {channels}", "inout"))
    return tokens_kernel(
        name,
        "ring_write.cpp.jinja",
        "swa_attention",
        arguments,
        ("tokens", "start"),
        units=f"std::min<uint32_t>(t.tokens, {ring}u)",
        channels=channels,
        columns=columns,
        pitch=pitch,
        ring=ring,
        row_type=row_type,
        tile=tile,
    )
