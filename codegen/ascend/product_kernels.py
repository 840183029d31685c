"""Products whose float32 sums stay float32: the vendor's product rounds its result to the operands' type."""

from __future__ import annotations

from .kernel import Argument, Kernel
from .platform import Platform
from .tiling import Buffer, TilingError, align, ceil_div, solve
from .vector_kernels import BF16, F32, tokens_kernel

ROWS = 128  # rows of x at once
COLUMNS = 256  # rows of w at once: few copies of x, and one tile of sums fills L0C
BURST = 256  # elements of a row: 512 bytes, what global memory delivers best
SIDE = 16  # of a fractal


def product(
    chip: Platform,
    name: str,
    *,
    depth: int,
    columns: int,
    x_type: str = "bfloat16_t",
    heads: int = 1,
    groups: int = 0,
    by_depth: bool = False,
    x_strides: tuple[int, int, int] | None = None,
    w_strides: tuple[int, int] | None = None,
    y_strides: tuple[int, int] | None = None,
) -> Kernel:
    """x[T, K] bf16 or split, w[N, K] bf16 -> y[T, N] f32 = x times w transposed, summed in float32 in the order of K.

    heads H: x[T, H, K], w[H, N, K] -> y[T, H, N]. groups E: w[E, N, K], and rows before ends[e] (i32), from ends[e - 1] on, are
    multiplied by w[e]; the host knows T alone. by_depth: matrices of w are [K, N].
    Strides count elements in memory, of contiguous tensors unless given. x: of rows, of heads, from high to low parts; w: of
    heads or groups, of a matrix' rows; y: of rows, of heads.
    A core computes whole sums, so that a token's result depends neither on the other tokens nor on the count of cores.
    """
    if depth < 1 or columns < 1:
        raise TilingError(f"{name}: a product of depth {depth} with {columns} columns")
    split = x_type == "split"
    parts = 2 if split else 1
    x_strides = x_strides or (heads * parts * depth, parts * depth, depth)
    w_strides = w_strides or (columns * depth, columns if by_depth else depth)
    y_strides = y_strides or (heads * columns, columns)
    width = min(COLUMNS, align(columns, SIDE))
    operands = [
        Buffer("x", parts * ROWS * BURST * BF16, depth=2),
        Buffer("w", width * BURST * BF16, depth=2),
    ]
    l1 = solve(name, "L1", chip.l1, operands, ceil_div(depth, BURST))
    wide = max(parts * ROWS, width)  # the larger operand decides how much depth both memories hold at once
    steps = ceil_div(min(depth, BURST), SIDE)
    l0 = solve(name, "L0A or L0B", min(chip.l0a, chip.l0b), [Buffer("operand", wide * SIDE * BF16, depth=2)], steps)
    sums = solve(name, "L0C", chip.l0c, [Buffer("sum", ROWS * width * F32)], 1)
    arguments = (
        Argument("x", x_type, f"tokens, {x_strides[0] // parts}"),
        Argument("w", "bfloat16_t", f"{groups or heads}, {depth if by_depth else columns}, {columns if by_depth else depth}"),
        *((Argument("ends", "int32_t", f"{groups}", note="rows of groups so far"),) if groups else ()),
        Argument("y", "float", f"tokens, {y_strides[0]}", "out"),
    )
    strips = ceil_div(columns, SIDE)
    return tokens_kernel(
        name,
        "product.cpp.jinja",
        "moe_ffn" if groups else "linear",
        arguments,
        units=f"t.tokens * {strips}u" if groups else f"(t.tokens + {ROWS - 1}u) / {ROWS}u * {heads * strips}u",
        core="aic",
        depth=depth,
        columns=columns,
        x_type=x_type,
        split=split,
        heads=heads,
        groups=groups,
        by_depth=by_depth,
        x_strides=x_strides,
        w_strides=w_strides,
        y_strides=y_strides,
        rows=ROWS,
        width=width,
        chunk=l1.rows * BURST,
        step=l0.rows * SIDE,
        l1=l1,
        left=l0.rows * parts * ROWS * SIDE * BF16,
        right=l0.rows * width * SIDE * BF16,
        sums=sums,
        chip=chip,
    )
