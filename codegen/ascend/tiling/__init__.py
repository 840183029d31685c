"""How much of each tensor a core holds at once: budgets of UB, L1 and L0, and the split of the work over cores."""

from .solver import BLOCK, REPEAT, Buffer, Tile, TilingError, align, ceil_div, solve

__all__ = ["BLOCK", "REPEAT", "Buffer", "Tile", "TilingError", "align", "ceil_div", "solve"]
