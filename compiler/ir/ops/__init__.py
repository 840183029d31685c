"""The operator definitions, by family. Importing this package fills the table."""

from . import fused, index, linalg, pointwise, reduce, shape

__all__ = ["fused", "index", "linalg", "pointwise", "reduce", "shape"]
