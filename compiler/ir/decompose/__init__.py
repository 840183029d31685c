"""Fused operators as graphs of primitive ones. Importing this package fills the table."""

from . import attention, moe, mtp, norm, streams
from .table import decomposable, decompose, decompose_graph, decompose_node, drop_unread, operand_names

__all__ = [
    "attention", "decomposable", "decompose", "decompose_graph", "decompose_node", "drop_unread", "moe", "mtp", "norm",
    "operand_names", "streams",
]  # fmt: skip
