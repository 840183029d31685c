"""Attention in latent space on cube and vector cores: sliding windows over a ring, whole caches, and chosen rows of a cache.

The query is absorbed: its nope half went through kv_b's key half (a batched vendor matmul before), and the result is the mix of
latent rows, which kv_b's value half takes back to heads (another one after).
"""

from __future__ import annotations

from dataclasses import dataclass

from .kernel import Argument, Kernel
from .platform import Platform
from .tiling import Buffer, Tile, TilingError, align
from .vector_kernels import BF16, F32, tokens_kernel, ub_tile

KEY_TILE = 128  # keys at once
PART = 32  # least keys of a part
MOST_PARTS = 64  # of a block's keys
PARTS = 4  # of a window's, or of chosen rows; the same for every call, so that a token's result is
DENSE_COLUMNS = 512  # keys of a part of a whole cache, at positions that no call changes; doubled beyond 64 parts
DEPTH = 128  # columns of a product's operands at once
MODES = {"swa": "sliding-window", "dense": "dense", "dsa": "sparse"}


@dataclass(frozen=True)
class CubeBudget:
    """Bytes of one slot of each cube buffer, and the sums per memory. Operands are double buffered, others as said."""

    query: int
    weight: int
    key: int
    left: int
    right: int
    score: int
    value: int
    query_depth: int = 1
    score_depth: int = 1

    @property
    def l1(self) -> int:
        return self.query_depth * self.query + 2 * self.weight + 2 * self.key

    @property
    def l0a(self) -> int:
        return 2 * self.left

    @property
    def l0b(self) -> int:
        return 2 * self.right

    @property
    def l0c(self) -> int:
        return self.score_depth * self.score + self.value


def _budget(rows: int, width: int, latent: int) -> CubeBudget:
    m, w, c = align(rows, 16), align(width, 16), align(latent, 16)
    depth = max(KEY_TILE, DEPTH)
    return CubeBudget(
        m * w * BF16,
        m * KEY_TILE * BF16,
        KEY_TILE * w * BF16,
        m * depth * BF16,
        KEY_TILE * depth * BF16,
        m * KEY_TILE * F32,
        m * c * F32,
    )


def _fits(b: CubeBudget, chip: Platform) -> bool:
    return b.l1 <= chip.l1 and b.l0a <= chip.l0a and b.l0b <= chip.l0b and b.l0c <= chip.l0c


def _task_rows(name: str, chip: Platform, width: int, latent: int) -> int:
    """The most rows (a multiple of 16, at most 128) of a task that the cube core's memories hold."""
    for rows in range(128, 0, -16):
        if _fits(_budget(rows, width, latent), chip):
            return rows
    raise TilingError(f"{name}: rows of {width} do not fit L1 ({chip.l1}) or L0C ({chip.l0c}); latent rows must be shorter")


def _softmax_tile(name: str, chip: Platform, chunk: int, width: int, gather: int) -> Tile:
    buffers = [
        Buffer("in", chunk * F32, depth=2),
        Buffer("out", chunk * BF16, depth=2),
        Buffer("wide", chunk * F32),
        Buffer("work", 64 * F32),
        Buffer("scalars", 13 * F32, fixed=13 * 7 * F32),
        Buffer("statistics", 16 * F32, fixed=7 * 16 * F32),
    ]
    if gather:
        buffers += [Buffer("index", fixed=gather * 4), Buffer("gathered", fixed=gather * align(width, 16) * BF16, depth=2)]
    return ub_tile(name, chip, buffers, 32)


def _join_tile(name: str, chip: Platform, latent: int) -> Tile:
    """Buffers that put parts together; the rows of the tile are the parts read at once."""
    pitch = align(latent, 16)
    buffers = [
        Buffer("statistics", fixed=2 * MOST_PARTS * 8 * F32, depth=2),
        Buffer("mixes", pitch * F32, depth=2),
        Buffer("out", fixed=pitch * BF16, depth=2),
        Buffer("sum", fixed=pitch * F32),
        Buffer("scalars", fixed=3 * 64 * F32),
    ]
    return ub_tile(name, chip, buffers, 8)


def attention(
    chip: Platform,
    name: str,
    *,
    kind: str,
    heads: int,
    width: int,
    latent: int,
    sinks: int,
    scale: float,
    window: int = 0,
    ring: int = 0,
    top: int = 0,
) -> Kernel:
    """query[T, h, C + r] bf16 -> out[T, h, C] bf16, for `kind` swa, dense or dsa.

    swa: keys are ring[R, C + r] (position p in row p % R) before `start`, and latent[T, C + r] from there on.
    dense: cache[start + T, C + r]. dsa: the rows of the cache that index[T, top] i32 lists, min(top, start + t + 1) of them.
    """
    if kind == "swa" and ring < window - 1:
        raise TilingError(f"{name}: a ring of {ring} rows for a window of {window}; at least {window - 1}")
    if not heads >= 1 or width > 4096 or latent > width:
        raise TilingError(f"{name}: {heads} heads, rows of {width}, values of {latent}")
    limit = _task_rows(name, chip, width, latent)
    task_heads = min(heads, limit)
    task_tokens = 1  # the keys of a task, and so the order of sums, belong to one token
    rows = task_heads * task_tokens
    budget = _budget(rows, width, latent)
    longest = {"swa": sinks + window - 1 + task_tokens, "dsa": sinks + top}.get(kind)
    gather = 32 if kind == "dsa" else 0
    tile = _softmax_tile(name, chip, min(2048, align(longest or 2048, 64)), width, gather)
    chunk = min(2048, align(longest or 2048, 64))
    join = _join_tile(name, chip, latent)
    arguments = [Argument("query", "bfloat16_t", f"tokens, {heads}, {width}", note="absorbed: [latent, rotary] per head")]
    if kind == "swa":
        arguments += [Argument("ring", "bfloat16_t", f"{ring}, {width}"), Argument("latent", "bfloat16_t", f"tokens, {width}")]
    else:
        arguments.append(Argument("cache", "bfloat16_t", f"start, {width} + tokens, {width}"))
    if kind == "dsa":
        arguments.append(Argument("index", "int32_t", f"tokens, {top}"))
    if sinks:
        arguments.append(Argument("sinks", "bfloat16_t", f"{sinks}, {width}"))
    extra = 128 + (top * width // 2 + 1 if kind == "dsa" else 0)  # slots start at multiples of 512 bytes
    arguments += [
        Argument("out", "bfloat16_t", f"tokens, {heads}, {latent}", "out"),
        Argument(
            "workspace",
            "float",
            f"blocks, 2, {rows}, columns, 2 + blocks, 2, {extra} + partials, {rows}, {latent + 16}",
            "workspace",
        ),
    ]
    tasks = f"((t.tokens + {task_tokens - 1}u) / {task_tokens}u * {-(-heads // task_heads)}u)"
    if longest:
        count = min(PARTS, max(1, longest // PART))
        parts, columns = f"{count}u", f"{align(-(-longest // count), 16)}u"
    else:
        keys = f"({sinks}u + t.start + t.tokens)"
        columns = f"pangu_dense_columns({keys}, {DENSE_COLUMNS}u, {MOST_PARTS}u)"
        parts = f"({keys} + t.columns - 1u) / t.columns"
    planned = (
        ("columns", columns),
        ("parts", parts),
        ("blocks", f"std::min<uint32_t>(cores, std::max<uint32_t>(1u, {tasks} * t.parts))"),
        ("partials", f"t.parts > 1u ? {tasks} * t.parts : 0u"),
    )
    return tokens_kernel(
        name,
        "attention.cpp.jinja",
        f"{kind}_attention",
        tuple(arguments),
        ("tokens", "start", *(name for name, _ in planned)),
        units="t.blocks",
        core="mix",
        planned=planned,
        mode=MODES[kind],
        heads=heads,
        width=width,
        latent=latent,
        sinks=sinks,
        scale=scale,
        window=window,
        ring=ring,
        top=top,
        gather=gather,
        task_tokens=task_tokens,
        task_heads=task_heads,
        rows=rows,
        key_tile=KEY_TILE,
        depth=DEPTH,
        chunk=chunk,
        cube=budget,
        tile=tile,
        chip=chip,
        most_parts=MOST_PARTS,
        join=join,
        batch=join.rows,
    )
