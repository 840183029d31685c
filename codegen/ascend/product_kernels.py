"""Products of bf16 operands whose float32 sums stay float32: the vendor's product rounds its result to the operands' type."""

from __future__ import annotations

from .kernel import Argument, Kernel
from .platform import Platform
from .tiling import Buffer, TilingError, align, ceil_div, solve
from .vector_kernels import BF16, F32, tokens_kernel

ROWS = 128  # rows of x at once
COLUMNS = 256  # rows of w at once: few copies of x, and one tile of sums fills L0C
BURST = 256  # elements of a row: 512 bytes, what global memory delivers best
SIDE = 16  # of a fractal


def product(chip: Platform, name: str, *, depth: int, columns: int) -> Kernel:
    """x[T, K] bf16, w[N, K] bf16 -> y[T, N] f32 = x times w transposed, summed in float32 in the order of K.

    A core computes whole sums, so that a token's result depends neither on the other tokens nor on the count of cores.
    """
    if depth < 1 or columns < 1:
        raise TilingError(f"{name}: a product of depth {depth} with {columns} columns")
    width = min(COLUMNS, align(columns, SIDE))
    operands = [
        Buffer("x", ROWS * BURST * BF16, depth=2),
        Buffer("w", width * BURST * BF16, depth=2),
    ]
    l1 = solve(name, "L1", chip.l1, operands, ceil_div(depth, BURST))
    wide = max(ROWS, width)  # the larger operand decides how much depth both memories hold at once
    steps = ceil_div(min(depth, BURST), SIDE)
    l0 = solve(name, "L0A or L0B", min(chip.l0a, chip.l0b), [Buffer("operand", wide * SIDE * BF16, depth=2)], steps)
    sums = solve(name, "L0C", chip.l0c, [Buffer("sum", ROWS * width * F32)], 1)
    arguments = (
        Argument("x", "bfloat16_t", f"tokens, {depth}"),
        Argument("w", "bfloat16_t", f"{columns}, {depth}"),
        Argument("y", "float", f"tokens, {columns}", "out"),
    )
    return tokens_kernel(
        name,
        "product.cpp.jinja",
        "linear",
        arguments,
        units=f"(t.tokens + {ROWS - 1}u) / {ROWS}u * {ceil_div(columns, SIDE)}u",
        core="aic",
        depth=depth,
        columns=columns,
        rows=ROWS,
        width=width,
        chunk=l1.rows * BURST,
        step=l0.rows * SIDE,
        l1=l1,
        left=l0.rows * ROWS * SIDE * BF16,
        right=l0.rows * width * SIDE * BF16,
        sums=sums,
        chip=chip,
    )
