"""Hyper-connection kernels: mhc_pre, mhc_post, their chain mhc_post_pre, and mhc_merge, one template for all."""

from __future__ import annotations

from dataclasses import dataclass

from .kernel import Argument, Kernel
from .platform import Platform
from .tiling import Buffer, Tile, TilingError, align, ceil_div, solve
from .vector_kernels import F32, FACTORS, RESERVE, SIZES, element, factor_bytes, reduce_work, tokens_kernel

SLICES = 8  # of a row of columns; with eight tokens at once they fill MAX_PARTS
MAX_PARTS = 64  # partial sums that a core adds up at once: slices of one token, or eight tokens of one slice


@dataclass(frozen=True)
class Post:
    """mhc_post: epsilons of the norms that it has."""

    out_eps: float | None = None
    block_eps: float | None = None


@dataclass(frozen=True)
class Pre:
    """mhc_pre, or mhc_merge: epsilons, Sinkhorn iterations, and which optional parameters there are."""

    pre_eps: float
    mhc_eps: float
    gamma: bool = True
    iterations: int = 0
    norm_eps: float | None = None
    merge: bool = False
    digits: int = 0  # of int8, as which y is stored too, with a scale per token; needs norm_eps
    wide_y: bool = False  # y also as float32, for what decides (a router)


@dataclass(frozen=True)
class _Shape:
    streams: int
    hidden: int
    post: Post | None
    pre: Pre | None
    stream_type: str = "bfloat16_t"
    out_type: str = "bfloat16_t"
    y_type: str = "bfloat16_t"

    @property
    def stream_size(self) -> int:
        return SIZES[self.stream_type]

    @property
    def out_size(self) -> int:
        return SIZES[self.out_type]

    @property
    def coefficients(self) -> int:
        if self.pre is None:
            return 0
        return self.streams if self.pre.merge else self.streams * (self.streams + 2)

    @property
    def block_norm(self) -> bool:
        return self.post is not None and self.post.block_eps is not None

    @property
    def sums(self) -> int:
        return self.coefficients + (self.pre is not None) + self.block_norm

    @property
    def part(self) -> int:
        size = 8
        while size < self.sums:
            size *= 2
        return size

    @property
    def out_depth(self) -> int:
        """Buffers of each queue of results in the second phase: all queues of that direction have eight event ids together."""
        if self.pre is None:
            return 2
        queues = 1 + 2 * (not self.pre.merge) + 2 * (self.pre.digits > 0)
        return 2 if 2 * queues + self.pre.wide_y + 2 * self.block_norm <= 8 else 1

    @property
    def new_size(self) -> int:
        return F32 if self.block_norm else self.stream_size


def _mix_buffers(s: _Shape, width: int, phi_depth: int = 2) -> list[Buffer]:
    """Local buffers of the first phase. kernels/mhc.cpp.jinja, class Mix."""
    n, pitch = s.streams, align(width, 16)
    tile, vectors = n * pitch, int(s.pre is not None and s.pre.gamma) + int(s.block_norm)
    buffers = [
        Buffer("x", tile * s.stream_size + (pitch * s.out_size if s.post else 0), depth=2),
        Buffer("wide", tile * F32 * (2 if s.post else 1)),
        Buffer("scaled", tile * F32 if vectors else 0),
        Buffer("accumulator", max(s.sums, 1) * 64 * F32),
        Buffer("sums", s.part * F32, depth=2),
    ]
    if s.pre:
        buffers.append(Buffer("phi", fixed=s.coefficients * tile * F32, depth=phi_depth))
    if vectors:
        buffers.append(Buffer("vectors", fixed=vectors * tile * F32, depth=2))
    if s.post:
        few, many = n, n * n
        buffers += [
            Buffer("branch", pitch * F32),
            Buffer("new", tile * s.new_size, depth=2),
            Buffer("whole", (few + many) * F32, fixed=16 * F32 + max(align(s.hidden, 16) * s.out_size, pitch * F32)),
            Buffer("spread", (few + many) * 8 * F32, fixed=16 * 8 * F32),
        ]
        if s.post.out_eps is not None:
            whole = align(s.hidden, 16)
            buffers += [
                Buffer("whole_wide", fixed=whole * F32),
                Buffer("work", fixed=32 + reduce_work(s.hidden)),
                FACTORS,
            ]
    return buffers


def _lane_floats(s: _Shape) -> int:
    """Finish::kLaneFloats of kernels/mhc_finish.jinja."""
    n, every = s.streams, s.part * 8
    few, many = 8 * n, 8 * n * n
    work = max(every, many + 8)
    return 5 * every + few + many + max(work, many) + few + few * 8 + 64


def _finish_buffers(s: _Shape, width: int) -> list[Buffer]:
    """Local buffers of the second phase, all of one token."""
    n, whole = s.streams, align(s.hidden, 16)
    tile = n * align(width, 16)
    buffers = [
        Buffer("parts", fixed=MAX_PARTS * s.part * F32),
        Buffer("lanes", fixed=_lane_floats(s) * F32),
        Buffer("x", fixed=tile * s.new_size, depth=2),
        Buffer("wide", fixed=tile * F32),
    ]
    if s.block_norm:
        buffers += [Buffer("block", fixed=tile * F32, depth=2), Buffer("new", fixed=tile * s.stream_size, depth=2)]
    if s.pre:
        buffers += [Buffer("y", fixed=whole * F32), Buffer("y_out", fixed=whole * SIZES[s.y_type], depth=s.out_depth)]
        if not s.pre.merge:
            few = s.out_depth
            buffers += [Buffer("post", fixed=8 * n * F32, depth=few), Buffer("res", fixed=8 * n * n * F32, depth=few)]
        if s.pre.wide_y:
            buffers.append(Buffer("y_wide", fixed=whole * F32))
        if s.pre.digits:
            few, row = s.out_depth, s.pre.digits * align(s.hidden, 32)
            buffers += [Buffer("quantised", fixed=row, depth=few), Buffer("scale", fixed=8 * F32, depth=few)]
        if s.pre.norm_eps is not None or s.y_type == "split":
            buffers.append(Buffer("square", fixed=whole * F32))
        if s.pre.norm_eps is not None:
            buffers += [
                Buffer("gamma", fixed=whole * F32),
                Buffer("work", fixed=32 + reduce_work(s.hidden)),
                Buffer("factors", fixed=factor_bytes(1)),
            ]
    return buffers


def _first_that_fits(name: str, chip: Platform, s: _Shape) -> tuple[int, int, Tile]:
    """Columns at once, phi buffers, tile: the widest that leaves room for four tokens, else the one with the most tokens."""
    best: tuple[int, int, Tile] | None = None
    for width, depth in ((512, 2), (256, 2), (128, 2), (64, 2), (64, 1)):
        if s.streams * width // 8 > 255:
            continue
        width = min(width, align(s.hidden, 64))
        try:
            tile = solve(name, "UB", chip.ub - RESERVE, _mix_buffers(s, width, depth), 16)
        except TilingError:
            continue
        if best is None or tile.rows > best[2].rows:
            best = (width, depth, tile)
        if best[2].rows >= 4 or depth == 1:
            break
    if best is None:
        raise TilingError(
            f"{name}: {s.streams} streams of {s.hidden} do not fit {chip.ub} bytes of UB; split them before this kernel"
        )
    return best


def _finish_tile(name: str, chip: Platform, s: _Shape) -> tuple[int, Tile]:
    for width in (8192, 4096, 2048, 1024, 512, 256, 128):
        try:
            return width, solve(name, "UB", chip.ub - RESERVE, _finish_buffers(s, min(width, s.hidden)), 1)
        except TilingError:
            continue
    raise TilingError(f"{name}: rows of {s.hidden} do not fit {chip.ub} bytes of UB; split them before this kernel")


def _arguments(s: _Shape) -> tuple[Argument, ...]:
    n, h = s.streams, s.hidden
    streams = f"tokens, {n}, {h}"
    result = [Argument("x", s.stream_type, streams)]
    if s.post:
        result += [
            Argument("out", s.out_type, f"tokens, {h}"),
            Argument("post", "float", f"tokens, {n}"),
            Argument("res", "float", f"tokens, {n}, {n}"),
        ]
        if s.post.out_eps is not None:
            result.append(Argument("out_norm", "float", f"{h}"))
        if s.post.block_eps is not None:
            result.append(Argument("block_norm", "float", f"{n * h}"))
    if s.pre:
        result += [
            Argument("phi", "float", f"{s.coefficients}, {n * h}"),
            Argument("alpha", "float", "1" if s.pre.merge else "3"),
            Argument("beta", "float", f"{s.coefficients}"),
        ]
        if s.pre.gamma:
            result.append(Argument("gamma", "float", f"{n * h}"))
        if s.pre.norm_eps is not None:
            result.append(Argument("norm", "float", f"{h}"))
    if s.post:
        result.append(Argument("new_x", s.stream_type, streams, "out"))
    if s.pre and s.pre.merge:
        result.append(Argument("h", s.y_type, f"tokens, {h}", "out"))
    elif s.pre:
        result += [
            Argument("y", s.y_type, f"tokens, {h}", "out"),
            Argument("new_post", "float", f"tokens, {n}", "out"),
            Argument("new_res", "float", f"tokens, {n}, {n}", "out"),
        ]
    if s.pre and s.pre.wide_y:
        result.append(Argument("y_wide", "float", f"tokens, {h}", "out"))
    if s.pre and s.pre.digits:
        result += [Argument("y_q", "int8_t", f"tokens, {s.pre.digits * h}", "out"), Argument("y_scale", "float", "tokens", "out")]
    floats = f"slices, tokens, {s.part}" + (f" + tokens, {n * h}" if s.block_norm else "")
    return (*result, Argument("workspace", "float", floats, "workspace"))


def mhc(
    chip: Platform, name: str, *, streams: int, hidden: int, post: Post | None = None, pre: Pre | None = None,
    stream_type: str = "bfloat16_t", out_type: str = "bfloat16_t", y_type: str = "bfloat16_t",
) -> Kernel:  # fmt: skip
    """mhc_pre (`pre`), mhc_post (`post`), mhc_post_pre (both) or mhc_merge (`pre.merge`). Streams (`stream_type`) and the branch's
    rows (`out_type`) are bf16 or float32, y and h (`y_type`) those or split; post, R, phi and all parameters are float32."""
    s = _Shape(streams, hidden, post, pre, stream_type, out_type, y_type)
    if (pre is None and post is None) or (pre and pre.merge and post):
        raise ValueError(f"{name}: neither mhc_pre nor mhc_post, or a merge after a post")
    if pre and pre.digits and (pre.norm_eps is None or pre.merge):
        raise ValueError(f"{name}: only a normed branch input is quantised")
    if not 1 <= streams <= 8 or hidden > 16320:
        raise TilingError(f"{name}: {streams} streams of {hidden}; at most 8 of 16320 are supported")
    width, phi_depth, mix = _first_that_fits(name, chip, s)
    finish_width, finish = _finish_tile(name, chip, s)
    second = pre is not None or s.block_norm
    op = "mhc_merge" if pre and pre.merge else "mhc_post_pre" if pre and post else "mhc_pre" if pre else "mhc_post"
    # The same for every call, so that sums are added in the same order however many tokens there are.
    slices = f"std::min<uint32_t>({min(ceil_div(hidden, 64), SLICES)}u, cores)"
    return tokens_kernel(
        name,
        "mhc.cpp.jinja",
        op,
        _arguments(s),
        ("tokens", "slices"),
        units="t.tokens * t.slices",
        planned=(("slices", slices),),
        streams=streams,
        hidden=hidden,
        post=post is not None,
        coefficients=s.coefficients,
        sums=s.sums,
        part=s.part,
        width=width,
        phi_depth=phi_depth,
        mix=mix,
        finish=finish,
        finish_width=min(finish_width, hidden),
        max_parts=MAX_PARTS,
        second=second,
        merge=bool(pre and pre.merge),
        digits=pre.digits if pre else 0,
        gamma=bool(pre and pre.gamma),
        norm=bool(pre and pre.norm_eps is not None),
        out_norm=bool(post and post.out_eps is not None),
        block_norm=s.block_norm,
        out_eps=(post and post.out_eps) or 0.0,
        block_eps=(post and post.block_eps) or 0.0,
        norm_eps=(pre and pre.norm_eps) or 0.0,
        pre_eps=pre.pre_eps if pre else 0.0,
        mhc_eps=pre.mhc_eps if pre else 0.0,
        iterations=pre.iterations if pre else 0,
        new_type="float" if s.block_norm else stream_type,
        stream_type=stream_type,
        out_type=out_type,
        y_element=element(y_type),
        split=y_type == "split",
        wide_y=bool(pre and pre.wide_y),
        out_depth=s.out_depth,
    )
