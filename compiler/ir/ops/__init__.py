"""The operator definitions, by family. Importing this package fills the table."""

from . import attention, fused, index, linalg, moe, mtp, norm, pointwise, reduce, shape, streams

__all__ = ["attention", "fused", "index", "linalg", "moe", "mtp", "norm", "pointwise", "reduce", "shape", "streams"]
