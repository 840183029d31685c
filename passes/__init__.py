"""Graph -> Graph rewrites and the one ordered table that runs them."""

from .table import PASSES, Pass, run_passes

__all__ = ["PASSES", "Pass", "run_passes"]
