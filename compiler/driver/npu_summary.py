"""What `inspect` and report.html tell of a model that is built for an NPU: the model's own summary, and the device's record.

Nothing of it was measured on a device. Costs are counted in the formats that the artifact stores: weights, caches, activations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pangu_compile.ir import DType, Graph, Module, TensorType, Value

from .targets import ascend_launches, torch_npu_calls

if TYPE_CHECKING:
    from pangu_compile.models.config import OpenPanguConfig
    from pangu_compile.report import Recorder, View
    from pangu_compile.report.roofline import Chip

    from .options import BuildOptions

STANDS_IN = {"ascend950": "ascend910_93"}  # of which no rates are known here


@dataclass(frozen=True)
class NpuModel:
    """A model as it is built for an NPU.

    module: optimised, its weights in the artifact's formats; plan: the artifact's plan.json; narrow: are activations and caches
    of 16 bits; weight_bytes: of the artifact's tensors.
    """

    config: OpenPanguConfig
    module: Module
    plan: Mapping[str, Any]
    target: str
    narrow: bool
    weight_bytes: int
    max_context: int
    max_chunk: int


def rates(target: str, chip_name: str) -> Chip:
    """Peak rates of the chip of a target; torch_npu has the one that it was built for."""
    from pangu_compile.report import chip

    if target != "torch_npu":
        return chip(target)
    if chip_name not in STANDS_IN:
        return chip(chip_name)
    other = chip(STANDS_IN[chip_name])
    note = f"no rates of {chip_name} are known here: those of {other.name} stand in"
    return replace(other, name=f"{other.name} (in place of {chip_name})", derivation=(note, *other.derivation))


def npu_summary(model: NpuModel, recorder: Recorder, view: View) -> dict[str, Any]:
    """The summary of `report`, with the record `ascend` or `torch_npu`. The module's types change where `narrow`."""
    from pangu_compile.models.tensors import parameter_shapes
    from pangu_compile.report import Compiled, model_summary

    shapes = parameter_shapes(model.config, mtp=False)
    key, record = device_record(model, view, shapes)
    module = narrowed(model.module, wide_streams=model.target != "torch_npu") if model.narrow else model.module
    compiled = Compiled(model.config, module, None, shapes, recorder)
    summary = model_summary(compiled, view)
    return {**summary, "plan": _statistics(model, summary), key: record}


def device_record(model: NpuModel, view: View, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, dict[str, Any]]:
    """Name and content of what is told of the device alone."""
    if model.target == "torch_npu":
        return "torch_npu", torch_npu_calls.call_record(model.plan)
    from pangu_compile.report.minimum import decode_minimum, stored_as

    from .targets.ascend_estimate import device_module, estimate

    states = device_module(model.module, model.plan["activations"]).states
    least = decode_minimum(model.config, shapes, states, stored_as(model.module), view.context)
    return "ascend", estimate(model.module, model.plan, model.config, view.chip, view.acceptance, least.total, view.context)


def operators(model: NpuModel, program: str) -> Counter[str]:
    """Operators of the graph that one run of a program applies, by the artifact's plan."""
    if model.target == "torch_npu":
        return torch_npu_calls.operators(model.plan, program)
    return ascend_launches.count_launches(model.plan, f"program_{program}").operators


def _statistics(model: NpuModel, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The record `plan`: sizes of the artifact. arena_bytes: of an Ascend program's frame; torch manages memory by itself."""
    from pangu_compile.report.counts import launched

    programs: dict[str, Any] = {}
    for name in model.module.programs:
        if model.target == "torch_npu":
            programs[name] = {"kernels": launched(operators(model, name))}
        elif f"program_{name}" in model.plan["functions"]:
            launches = ascend_launches.count_launches(model.plan, f"program_{name}").total
            programs[name] = {"kernels": launches, "arena_bytes": model.plan["functions"][f"program_{name}"]["frame_bytes"]}
    return {
        "max_context": model.max_context, "max_chunk": model.max_chunk, "parameters": summary["parameters"]["total"],
        "weight_bytes": model.weight_bytes, "cache_bytes_per_token": summary["caches"]["bytes_per_token"],
        "cache_bytes_fixed": summary["caches"]["bytes_fixed"], "functions": len(model.plan["functions"]), "programs": programs,
    }  # fmt: skip


def npu_report(model: NpuModel, options: BuildOptions, recorder: Recorder) -> str:
    """report.html of an artifact."""
    from pangu_compile.report import View, rates_for, render_report

    heads = int(model.module.info.get("num_drafts", 0))
    view = View(model.max_context, rates(model.target, options.chip), rates_for(heads, None))
    return render_report(npu_summary(model, recorder, view))


def narrowed(module: Module, wide_streams: bool) -> Module:
    """The module with activations and states of 16 bits, for costs: types of float32 values that are no weights are changed.

    The graphs are changed in place, so this comes after everything that reads their types. wide_streams: residual streams, the
    values of three axes that mHC's operators read and write, stay float32.
    """
    from .targets.ascend_estimate import device_module

    kept: set[Value] = set()
    for program in module.programs.values():
        roles = zip(program.graph.params, program.params, strict=True)
        _mark(module, program.graph, {v for v, r in roles if r.kind in ("weight", "constant")}, kept)
    for graph in module.graphs():
        if wide_streams:
            streams = (v for n in graph.nodes if n.op.startswith("mhc") for v in (*n.inputs, *n.outputs))
            kept |= {v for v in streams if v.type.rank == 3}
        for value in (*graph.params, *(v for node in graph.nodes for v in node.outputs)):
            if value not in kept and value.type.dtype is DType.f32 and value.type.rank > 0:
                value.type = TensorType(DType.bf16, value.type.shape)
    return device_module(module, "bf16")


def _mark(module: Module, graph: Graph, own: set[Value], found: set[Value]) -> None:
    """Add parameters that are weights, of a graph and of the functions that it calls, to `found`."""
    found |= own
    for node in graph.nodes:
        if node.op == "call":
            callee = module.functions[node.attrs["function"]]
            inner = {p for p, v in zip(callee.params, node.inputs, strict=True) if v in own}
            if not inner <= found:
                _mark(module, callee, inner, found)
