"""Runs generated operators and artifacts inside the test process."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pangu_compile.codegen.torch_npu.choose import Target
from pangu_compile.codegen.torch_npu.emit import check_sources
from pangu_compile.codegen.torch_npu.operators import CACHES, OperatorWriter, environment, result_names, slot_names
from pangu_compile.codegen.torch_npu.schema import Call
from pangu_compile.codegen.torch_npu.support import blocks, reference
from pangu_compile.codegen.torch_npu.usage import CONV_SLOTS
from pangu_compile.ir import Node

torch.set_num_threads(1)
reference.register()


def operator_source(node: Node, target: Target) -> tuple[str, str, list[Call]]:
    """Name and file of the generated function of one fused operator, and its checked calls."""
    writer = OperatorWriter(target)
    name = writer.function(node)
    text = environment().get_template("operators.py.jinja").render(operators=writer.sources(), chip=target.chip, dtype="")
    return name, text, check_sources({"pangu_operators.py": text}, target.chip)


def load_operators(text: str) -> dict[str, Any]:
    """The names of a generated operators file."""
    sys.modules.setdefault("pangu_blocks", blocks)
    names: dict[str, Any] = {"__name__": "pangu_operators"}
    exec(compile(text, "pangu_operators.py", "exec"), names)
    return names


def _operand(op: str, slot: str, array: np.ndarray) -> Any:
    """An operand of the IR's semantics as the generated code has it."""
    if slot == "start":
        return int(array)
    tensor = torch.from_numpy(np.array(array))
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    if slot in CACHES.get(op, ()):
        cache = blocks.AppendCache(len(array) + 40, array.shape[1], torch.float32, torch.device("cpu"))
        return cache.append(tensor)
    if (op, slot) in CONV_SLOTS:
        return tensor[:, 0].t().contiguous()
    if slot == "table":
        halves = tensor.chunk(2, -1)
        return torch.stack([h.repeat(1, 2) for h in halves])[:, None, :, None, :]
    return tensor


def run_operator(
    node: Node, arrays: list[np.ndarray], target: Target, sparse: tuple[int, Tensor | None] | None = None
) -> dict[str, np.ndarray]:
    """Results of the generated function by name. sparse: where the latent cache is split, and the sinks in front of it."""
    name, text, _ = operator_source(node, target)
    operands = {slot: _operand(node.op, slot, a) for slot, a in zip(slot_names(node), arrays, strict=True)}
    if sparse is not None:
        rows, (split, sinks) = operands["cache"].rows(), sparse
        front = 0 if sinks is None else len(sinks)
        cache = blocks.AppendCache(len(rows) + 9, rows.shape[1], torch.float32, rows.device, split, front)
        if sinks is not None:
            cache.set_prefix(sinks)
        operands["cache"] = cache.append(rows)
    with torch.no_grad():
        results = load_operators(text)[name](*operands.values())
    results = results if isinstance(results, tuple) else (results,)
    values = [r.rows() if isinstance(r, blocks.AppendCache) else r for r in results]
    return {n: v.double().numpy() for n, v in zip(result_names(node), values, strict=True)}
