"""Vector kernels that choose: routing, argmax, verification of drafts. The lowest index wins among equals."""

from __future__ import annotations

from .kernel import Argument, Kernel
from .platform import Platform
from .tiling import Buffer, TilingError, align, ceil_div
from .vector_kernels import F32, FACTORS, cores_per_token, tokens_kernel, ub_tile

PAIR = 8  # bytes of a (score, index) pair
CANDIDATES = 256  # pieces of a row, and chunks of a piece, that the argmax kernel compares at the end


def moe_gate(chip: Platform, name: str, *, experts: int, k: int, bias: bool, normalise: bool, scale: float, eps: float) -> Kernel:
    """logits[T, E] f32 (router times x), bias[E] f32 -> index[T, k] i32, weight[T, k] f32."""
    keep, pitch = align(k, 8), align(experts, 32)
    if keep > 32 or k > experts or experts > 2048:
        raise TilingError(f"{name}: {k} of {experts} experts; at most 32 of 2048 are supported")
    merged = ceil_div(pitch // 32, 4) * 4 * keep
    buffers = [
        Buffer("logits", align(experts, 8) * F32, depth=2),
        Buffer("index", keep * 4, depth=2),
        Buffer("weight", keep * F32, depth=2),
        Buffer("score", pitch * F32),
        Buffer("biased", pitch * F32),
        Buffer("sorted", pitch * PAIR, fixed=256),
        Buffer("merged", merged * PAIR, fixed=align(experts, 64) * F32),
        Buffer("count", pitch * 4),
        Buffer("base", keep * 4),
        Buffer("bias", fixed=align(experts, 8) * F32),
        FACTORS,
    ]
    tile = ub_tile(name, chip, buffers, min(64, 255 // (pitch // 32)))
    arguments = (
        Argument("logits", "float", f"tokens, {experts}", note="router times x, in float32"),
        *((Argument("bias", "float", f"{experts}"),) if bias else ()),
        Argument("index", "int32_t", f"tokens, {k}", "out"),
        Argument("weight", "float", f"tokens, {k}", "out"),
    )
    return tokens_kernel(
        name,
        "moe_gate.cpp.jinja",
        "moe_gate",
        arguments,
        experts=experts,
        k=k,
        keep=keep,
        pitch=pitch,
        merged=merged,
        bias=bias,
        normalise=normalise,
        scale=scale,
        eps=eps,
        tile=tile,
    )


def argmax(chip: Platform, name: str, *, columns: int, dtype: str = "float") -> Kernel:
    """logits[T, V] (float or bfloat16_t) -> index[T] i32. Workspace: 2 * tokens * pieces floats."""
    size = {"float": 4, "bfloat16_t": 2}[dtype]
    chunk = min(4096, align(columns, 64))
    buffers = [
        Buffer("logits", fixed=max(chunk * size, CANDIDATES * F32), depth=2),
        Buffer("found", fixed=64, depth=2),
        Buffer("wide", fixed=chunk * F32),
        Buffer("count", fixed=chunk * F32),
        Buffer("work", fixed=max(chunk, CANDIDATES) * F32),
        Buffer("bits", fixed=max(chunk, CANDIDATES) // 8),
        Buffer("best", fixed=3 * 64 * F32),
        Buffer("list", fixed=2 * CANDIDATES * F32),
    ]
    chunks = ceil_div(columns, chunk)
    if chunks > CANDIDATES:
        raise TilingError(f"{name}: {columns} columns; at most {CANDIDATES * chunk}")
    tile = ub_tile(name, chip, buffers, 1)
    arguments = (
        Argument("logits", dtype, f"tokens, {columns}"),
        Argument("index", "int32_t", "tokens", "out"),
        Argument("workspace", "float", "2, tokens, pieces", "workspace"),
    )
    pieces = cores_per_token(min(chunks, CANDIDATES))
    return tokens_kernel(
        name,
        "argmax.cpp.jinja",
        "lm_head_argmax",
        arguments,
        ("tokens", "pieces"),
        units="t.tokens * t.pieces",
        planned=(("pieces", pieces),),
        columns=columns,
        dtype=dtype,
        chunk=chunk,
        candidates=CANDIDATES,
        tile=tile,
    )


def mtp_verify(chip: Platform, name: str, *, drafts: int) -> Kernel:
    """drafts[B, K] i32, the trunk's greedy tokens[B, K + 1] i32 -> result[B, 2] i32: accepted drafts, the next token."""
    if not 1 <= drafts <= 62:
        raise TilingError(f"{name}: {drafts} drafts; 1 to 62 are supported")
    row = 64 * F32
    buffers = [
        Buffer("drafts", align(drafts, 8) * 4, depth=2),
        Buffer("tokens", align(drafts + 1, 8) * 4, depth=2),
        Buffer("result", 32, depth=2),
        Buffer("rows", 3 * row, fixed=row),
        Buffer("bits", 8),
        FACTORS,
    ]
    arguments = (
        Argument("drafts", "int32_t", f"sequences, {drafts}"),
        Argument("tokens", "int32_t", f"sequences, {drafts + 1}"),
        Argument("result", "int32_t", "sequences, 2", "out"),
    )
    return tokens_kernel(
        name,
        "mtp_verify.cpp.jinja",
        "mtp_verify",
        arguments,
        ("sequences",),
        units="t.sequences",
        drafts=drafts,
        tile=ub_tile(name, chip, buffers, 32),
    )
