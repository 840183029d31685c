"""The lightning indexer on the device: scores of all cached keys on cube and vector cores, and the exact choice of the best."""

from __future__ import annotations

from .attention_kernels import DEPTH, CubeBudget
from .kernel import Argument, Kernel
from .platform import Platform
from .select_kernels import PAIR
from .tiling import Buffer, TilingError, align
from .vector_kernels import BF16, F32, tokens_kernel, ub_tile

KEY_TILE = 128
CHUNK = 2048  # scores that are sorted at once: 64 lists of 32


def index_score(
    chip: Platform,
    name: str,
    *,
    heads: int,
    channels: int,
    scale: float,
    weight_type: str = "bfloat16_t",
    row_type: str = "bfloat16_t",
) -> Kernel:
    """iq[T, hi, di], weight[T, hi], keys[start + T, di] -> scores[T, start + T] f32. iq and keys are of `row_type`: bf16 or split.

    Columns after start + t are not written. `scale` (positive) is the indexer's head_dim^-0.5. The workspace holds products of two
    slots per AI core.
    """
    if not 1 <= heads <= 128 or not 1 <= channels <= 1024 or scale <= 0:
        raise TilingError(f"{name}: {heads} index heads of {channels}, scale {scale}; at most 128 of 1024, and a positive scale")
    task_tokens = max(1, 96 // heads)
    rows = heads * task_tokens
    m, w, halves = align(rows, 16), align(channels, 16), 2 if row_type == "split" else 1
    cube = CubeBudget(
        halves * m * w * BF16,
        0,
        halves * KEY_TILE * w * BF16,
        m * DEPTH * BF16,
        KEY_TILE * DEPTH * BF16,
        m * KEY_TILE * F32,
        0,
        query_depth=2,
        score_depth=2,
    )
    if cube.l1 > chip.l1 or cube.l0c > chip.l0c:
        raise TilingError(f"{name}: {rows} rows of {channels} do not fit L1 ({chip.l1}) or L0C ({chip.l0c})")
    head = align(heads, 16)
    tile = ub_tile(
        name,
        chip,
        [
            Buffer("product", fixed=heads * KEY_TILE * F32, depth=2),
            Buffer("weight", fixed=head * F32, depth=2),
            Buffer("score", fixed=KEY_TILE * F32, depth=2),
            Buffer("wide", fixed=head * F32),
            Buffer("spread", fixed=head * 8 * F32),
        ],
        1,
    )
    arguments = (
        Argument("iq", row_type, f"tokens, {heads}, {channels}"),
        Argument("weight", weight_type, f"tokens, {heads}"),
        Argument("keys", row_type, f"start, {channels} + tokens, {channels}"),
        Argument("scores", "float", "tokens, start + tokens, tokens", "out"),
        Argument("workspace", "float", f"blocks, 2, {rows}, {KEY_TILE}", "workspace"),
    )
    tasks = f"((t.tokens + {task_tokens - 1}u) / {task_tokens}u) * ((t.start + t.tokens + {KEY_TILE - 1}u) / {KEY_TILE}u)"
    blocks = f"std::min<uint32_t>(cores, std::max<uint32_t>(1u, {tasks}))"
    return tokens_kernel(
        name,
        "index_score.cpp.jinja",
        "dsa_attention",
        arguments,
        ("tokens", "start", "blocks"),
        units="t.blocks",
        core="mix",
        planned=(("blocks", blocks),),
        heads=heads,
        channels=channels,
        scale=scale,
        rows=rows,
        weight_type=weight_type,
        task_tokens=task_tokens,
        key_tile=KEY_TILE,
        halves=halves,
        depth=DEPTH,
        cube=cube,
        tile=tile,
        chip=chip,
    )


def index_topk(chip: Platform, name: str, *, top: int) -> Kernel:
    """scores[T, start + T] f32 -> index[T, top] i32, best first. Workspace: a list of pairs for each piece of each token."""
    keep = align(top, 32)
    if not 1 <= top <= 2048:
        raise TilingError(f"{name}: {top} of the scores; at most 2048 are supported")
    chunk = CHUNK if keep > 512 else 512
    few = min(chunk, keep)
    buffers = [
        Buffer("scores", fixed=chunk * F32, depth=2),
        Buffer("lists", fixed=keep * PAIR, depth=2),
        Buffer("out", fixed=keep * PAIR),
        Buffer("count", fixed=chunk * 4),
        Buffer("score", fixed=chunk * F32),
        Buffer("sorted", fixed=chunk * PAIR),
        Buffer("merged", fixed=chunk * PAIR),
        Buffer("best", fixed=keep * PAIR),
        Buffer("union", fixed=2 * keep * PAIR),
    ]
    tile = ub_tile(name, chip, buffers, 1)
    arguments = (
        Argument("scores", "float", "tokens, start + tokens, tokens"),
        Argument("index", "int32_t", f"tokens, {top}", "out"),
        Argument("workspace", "float", f"tokens, pieces, {keep}, 2", "workspace"),
    )
    chunks = f"(t.start + t.tokens + {chunk - 1}u) / {chunk}u"
    pieces = f"std::max<uint32_t>(1u, std::min<uint32_t>({chunks}, cores / std::max<uint32_t>(1u, t.tokens)))"
    return tokens_kernel(
        name,
        "index_topk.cpp.jinja",
        "dsa_attention",
        arguments,
        ("tokens", "start", "pieces"),
        units="t.tokens * t.pieces",
        planned=(("pieces", pieces),),
        top=top,
        keep=keep,
        chunk=chunk,
        few=few,
        tile=tile,
    )
