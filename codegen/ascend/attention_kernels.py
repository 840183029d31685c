"""Attention in latent space on cube and vector cores: sliding windows over a ring, whole caches, and chosen rows of a cache.

The query is absorbed: its nope half went through kv_b's key half (a batched product before), and the result is the mix of
latent rows, which kv_b's value half takes back to heads (another one after). Operands are bf16, or split: float32 values as two
bf16 each, the high parts of a row before its low parts.
"""

from __future__ import annotations

from dataclasses import dataclass

from .kernel import Argument, Kernel
from .platform import Platform
from .tiling import Buffer, Tile, TilingError, align
from .vector_kernels import BF16, F32, tokens_kernel, ub_tile

KEY_TILES = (128, 64, 32)  # keys at once: the most with which the heads of a token are one task
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


def _budget(rows: int, width: int, latent: int, keys: int, halves: int) -> CubeBudget:
    m, w, c = align(rows, 16), align(width, 16), align(latent, 16)
    depth = max(keys, DEPTH)
    return CubeBudget(
        halves * m * w * BF16,
        halves * m * keys * BF16,
        halves * keys * w * BF16,
        m * depth * BF16,
        keys * DEPTH * BF16,
        m * keys * F32,
        m * c * F32,
    )


def _fits(b: CubeBudget, chip: Platform) -> bool:
    return b.l1 <= chip.l1 and b.l0a <= chip.l0a and b.l0b <= chip.l0b and b.l0c <= chip.l0c


def _task_tile(name: str, chip: Platform, heads: int, width: int, latent: int, halves: int) -> tuple[int, int]:
    """The most rows of a task (heads, in blocks of 16, at most 128) that the cube core's memories hold, and keys at once."""
    for rows in range(min(128, align(heads, 16)), 0, -16):
        for keys in KEY_TILES:
            if _fits(_budget(rows, width, latent, keys, halves), chip):
                return rows, keys
    raise TilingError(f"{name}: rows of {width} do not fit L1 ({chip.l1}) or L0C ({chip.l0c}); latent rows must be shorter")


def _softmax_tile(name: str, chip: Platform, chunk: int, width: int, gather: int, halves: int) -> Tile:
    buffers = [
        Buffer("in", chunk * F32, depth=2),
        Buffer("out", halves * chunk * BF16, depth=2),
        Buffer("wide", chunk * F32),
        Buffer("work", 64 * F32),
        Buffer("scalars", 13 * F32, fixed=13 * 7 * F32),
        Buffer("statistics", 16 * F32, fixed=7 * 16 * F32),
    ]
    if halves == 2:
        buffers.append(Buffer("rest", chunk * F32))
    if gather:
        buffers += [Buffer("index", fixed=gather * 4), Buffer("gathered", fixed=gather * align(halves * width, 16) * BF16, depth=2)]
    return ub_tile(name, chip, buffers, 32)


def _join_tile(name: str, chip: Platform, latent: int, halves: int) -> Tile:
    """Buffers that put parts together; the rows of the tile are the parts read at once."""
    pitch = align(latent, 16)
    buffers = [
        Buffer("statistics", fixed=2 * MOST_PARTS * 8 * F32, depth=2),
        Buffer("mixes", pitch * F32, depth=2),
        Buffer("out", fixed=halves * pitch * BF16, depth=2),
        Buffer("sum", fixed=pitch * F32),
        Buffer("scalars", fixed=3 * 64 * F32),
        *((Buffer("rest", fixed=pitch * F32),) if halves == 2 else ()),
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
    row_type: str = "bfloat16_t",
) -> Kernel:
    """query[T, h, C + r] -> out[T, h, C], for `kind` swa, dense or dsa; these, sinks and caches are of `row_type`, bf16 or split.

    swa: keys are ring[R, C + r] (position p in row p % R) before `start`, and latent[T, C + r] from there on.
    dense: cache[start + T, C + r]. dsa: the rows of the cache that index[T, top] i32 lists, min(top, start + t + 1) of them.
    """
    if kind == "swa" and ring < window - 1:
        raise TilingError(f"{name}: a ring of {ring} rows for a window of {window}; at least {window - 1}")
    if not heads >= 1 or width > 4096 or latent > width:
        raise TilingError(f"{name}: {heads} heads, rows of {width}, values of {latent}")
    halves = 2 if row_type == "split" else 1
    limit, key_tile = _task_tile(name, chip, heads, width, latent, halves)
    task_heads = min(heads, limit)
    task_tokens = 1  # the keys of a task, and so the order of sums, belong to one token
    rows = task_heads * task_tokens
    budget = _budget(rows, width, latent, key_tile, halves)
    longest = {"swa": sinks + window - 1 + task_tokens, "dsa": sinks + top}.get(kind)
    gather = 32 // halves if kind == "dsa" else 0
    chunk = min(2048, align(longest or 2048, 64))
    tile = _softmax_tile(name, chip, chunk, width, gather, halves)
    join = _join_tile(name, chip, latent, halves)
    arguments = [Argument("query", row_type, f"tokens, {heads}, {width}", note="absorbed: [latent, rotary] per head")]
    if kind == "swa":
        arguments += [Argument("ring", row_type, f"{ring}, {width}"), Argument("latent", row_type, f"tokens, {width}")]
    else:
        arguments.append(Argument("cache", row_type, f"start, {width} + tokens, {width}"))
    if kind == "dsa":
        arguments.append(Argument("index", "int32_t", f"tokens, {top}"))
    if sinks:
        arguments.append(Argument("sinks", row_type, f"{sinks}, {width}"))
    extra = 128 + (halves * top * width // 2 + 1 if kind == "dsa" else 0)  # slots start at multiples of 512 bytes
    arguments += [
        Argument("out", row_type, f"tokens, {heads}, {latent}", "out"),
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
        ("partials", f"{tasks} * t.parts" if halves == 2 else f"t.parts > 1u ? {tasks} * t.parts : 0u"),
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
        key_tile=key_tile,
        halves=halves,
        depth=DEPTH,
        chunk=chunk,
        cube=budget,
        tile=tile,
        chip=chip,
        most_parts=MOST_PARTS,
        join=join,
        batch=join.rows,
    )
