"""The IR: typed SSA graphs, one `OpDef` per operator, text form, verifier, numpy interpreter. Imports nothing of ours."""

from . import ops as _ops
from .builder import Builder, make_node, new_graph
from .graph import Folded, Graph, Module, Node, Program, Role, StateInfo, Value
from .inline import copy_nodes, inline_calls
from .interp import run_graph
from .opdef import Cost, OpDef, all_opdefs, opdef
from .text import parse_graph, print_graph, print_module
from .types import DType, IRError, TensorType, dim, evaluate_dim, symbol, tensor
from .verify import verify_graph, verify_module

__all__ = [
    "Builder",
    "Cost",
    "DType",
    "Folded",
    "Graph",
    "IRError",
    "Module",
    "Node",
    "OpDef",
    "Program",
    "Role",
    "StateInfo",
    "TensorType",
    "Value",
    "all_opdefs",
    "copy_nodes",
    "dim",
    "evaluate_dim",
    "inline_calls",
    "make_node",
    "new_graph",
    "opdef",
    "parse_graph",
    "print_graph",
    "print_module",
    "run_graph",
    "symbol",
    "tensor",
    "verify_graph",
    "verify_module",
]  # fmt: skip
del _ops
