"""What `inspect` tells of a checkpoint or an artifact: opened, compiled again in memory, and described."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangu_compile.errors import UserError

from .artifact import MANIFEST, Artifact
from .build import load_config
from .checkpoint import Checkpoint, read_json_object
from .optimise import optimise, planned, traced_model
from .options import ASCEND_TARGETS, BuildOptions, make_options
from .progress import Progress, Silent

if TYPE_CHECKING:
    from pangu_compile.ir import Module
    from pangu_compile.models.config import OpenPanguConfig
    from pangu_compile.report import Compiled, Recorder, View

ITEM_BYTES = {"f32": 4, "f64": 8, "i64": 8, "i32": 4, "bool": 1, "bf16": 2}
HEAD_KEYS = ("format_version", "target", "chip", "weights", "max_context", "max_chunk", "cpu")
NPU_TARGETS = (*ASCEND_TARGETS, "torch_npu")


@dataclass(frozen=True)
class InspectOptions:
    """What to look at.

    context: rows cached at decode; None: the artifact's, or min(the model's, 4096). target: whose roofline; None: the artifact's
    own, or cpu. weights: the format to compile a checkpoint's matrices to; None: f32, or what the artifact has.
    """

    context: int | None = None
    target: str | None = None
    weights: str | None = None
    acceptance: Sequence[float] | None = None
    measure: bool = False


@dataclass(frozen=True)
class Opened:
    """A checkpoint folder, or the one that an artifact was built from. `artifact`: None for a checkpoint."""

    path: Path
    checkpoint: Checkpoint
    config: OpenPanguConfig
    artifact: Artifact | None

    def build_options(self, weights: str | None = None, target: str = "cpu") -> BuildOptions:
        """Options that matter for the graph and for estimates: formats, and whether MTP heads are there.

        Args:
            target: what a checkpoint is looked at for; int8 on Ascend is another format than on the CPU.
        Raises:
            UserError: `weights` is another format than the artifact has.
        """
        if self.artifact is None:
            differs = weights == "int8" and target in ASCEND_TARGETS
            return make_options(weights=weights or "f32", target=target if differs else "cpu")
        manifest = self.artifact.manifest
        own = str(manifest.get("weights", "f32"))
        if weights not in (None, own):
            raise UserError(f"{self.path} holds {own} weights; --weights {weights} is for checkpoints")
        recorded = manifest.get("options", {})
        activations = {"activations": recorded["activations"]} if "activations" in recorded else {}
        own_target = {"target": manifest["target"]} if manifest.get("target") in ASCEND_TARGETS else {}
        return make_options(weights=own, mtp=bool(recorded.get("mtp", True)), **activations, **own_target)

    @property
    def npu_target(self) -> str | None:
        """The target of an artifact for an NPU, else None."""
        target = self.artifact.manifest.get("target") if self.artifact is not None else None
        return str(target) if target in NPU_TARGETS else None

    def compresses(self, name: str) -> bool:
        """Does the artifact hold that weight as bf16c? A checkpoint's weights are not read for this."""
        tensors = self.artifact.manifest.get("tensors", {}) if self.artifact is not None else {}
        return bool(tensors.get(name, {}).get("format") == "bf16c")


def is_artifact(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def open_path(path: Path, check: bool = True) -> Opened:
    """Open an artifact or a checkpoint (a folder with nothing but config.json is enough).

    Args:
        check: compare an artifact's files with their checksums.
    Raises:
        UserError: neither of the two, a damaged artifact, or one that was compiled from a plain torch module.
    """
    if not is_artifact(path):
        checkpoint = Checkpoint.open(path, weights=False)
        return Opened(path, checkpoint, load_config(checkpoint), None)
    artifact = Artifact.open(path, check=check)
    if "config" not in artifact.manifest:
        raise UserError(f"{path} was compiled from a torch module; inspect describes models (its plan is in plan.json)")
    checkpoint = Checkpoint(path, dict(artifact.manifest["config"]), {})
    return Opened(path, checkpoint, load_config(checkpoint), artifact)


def ir_text(path: Path, progress: Progress | None = None, weights: str | None = None) -> str:
    """The optimised IR of a checkpoint, or of an artifact's model (traced again from its configuration)."""
    from pangu_compile.ir import print_module

    opened = open_path(path, check=False)
    return print_module(optimised(opened, opened.build_options(weights), None, progress or Silent()))


def optimised(
    opened: Opened, options: BuildOptions, recorder: Recorder | None, progress: Progress, steps: Sequence[str] | None = None
) -> Module:
    """Trace a model (no weight is read) and run the passes; `recorder` watches. steps: as `traced_model` takes them.

    Raises:
        CompileError: an operator that is not covered, or a pass that breaks the graph.
    """
    module = traced_model(opened.config, options, progress, steps=steps)
    optimise(module, options, progress, recorder, compresses=opened.compresses)
    return module


def summarise(path: Path, options: InspectOptions | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Configuration, layers, counts, costs, storage, time, passes and plan of a checkpoint or an artifact.

    `plan_agrees` is False where an artifact's own plan has other fused operators than its configuration gives today: it
    was built from an edited model, or by another version.

    Raises:
        UserError: neither a checkpoint nor an artifact, a damaged one, or options that do not fit the model.
        CompileError: the model does not compile.
    """
    from pangu_compile.models.tensors import parameter_shapes
    from pangu_compile.report import Compiled, Recorder, View, chip, model_summary, rates_for
    from pangu_compile.report.counts import fused

    options, bar = options or InspectOptions(), progress or Silent()
    opened = open_path(path)
    config = opened.config
    context = _context(opened, options.context)
    target = _target(opened, options)
    build_options = opened.build_options(options.weights or _default_weights(opened, target), target)
    heads = config.num_nextn_predict_layers if build_options.mtp else 0
    rates, recorder = rates_for(heads, options.acceptance), Recorder()
    module = optimised(opened, build_options, recorder, bar, steps=())
    if opened.npu_target is not None:
        return _npu_artifact(opened, build_options, module, recorder, context, rates)
    view = View(context, chip(target, measure=options.measure), rates)
    plan = read_json_object(path / "plan.json") if opened.artifact is not None else planned(module, context, bar).to_json()
    compiled = Compiled(config, module, plan, parameter_shapes(config, mtp=False), recorder)
    summary = {**_head(opened), **model_summary(compiled, view), "plan": plan_statistics(plan)}
    if target in ASCEND_TARGETS:
        summary["ascend"] = _ascend(compiled, view, target, build_options.activations)
    summary["plan_agrees"] = fused(_operators(plan, plan["programs"]["step"])) == summary["fused"]
    return summary


def _target(opened: Opened, options: InspectOptions) -> str:
    """Whose costs are told. UserError where an artifact for an NPU is to be looked at as another one."""
    own = opened.npu_target
    if own is None:
        return options.target or "cpu"
    if options.measure:
        raise UserError(f"inspect --measure measures this machine, and {opened.path} was built for {own}")
    if options.target not in (None, own):
        raise UserError(f"{opened.path} was built for {own}; --target {options.target} is for checkpoints and artifacts for CPUs")
    return own


def _npu_artifact(
    opened: Opened, options: BuildOptions, module: Module, recorder: Recorder, context: int, acceptance: Sequence[float]
) -> dict[str, Any]:
    """The summary of an artifact for an NPU; launches and calls are those of its own plan."""
    from pangu_compile.report import View
    from pangu_compile.report.counts import fused

    from .npu_summary import NpuModel, npu_summary, operators, rates

    assert opened.artifact is not None
    manifest, target = opened.artifact.manifest, str(opened.npu_target)
    narrow = options.activations == "bf16"
    stored = sum(int(t["nbytes"]) for t in manifest["tensors"].values())
    model = NpuModel(
        opened.config, module, read_json_object(opened.path / "plan.json"), target, narrow, stored, manifest["max_context"],
        manifest["max_chunk"],
    )  # fmt: skip
    view = View(context, rates(target, str(manifest.get("chip", ""))), acceptance)
    summary = {**_head(opened), **npu_summary(model, recorder, view)}
    return {**summary, "plan_agrees": fused(operators(model, "step")) == summary["fused"]}


def _default_weights(opened: Opened, target: str) -> str | None:
    """A checkpoint is looked at in the format that the target has by default."""
    return "bf16" if opened.artifact is None and target in ASCEND_TARGETS else None


def _ascend(compiled: Compiled, view: View, target: str, activations: str) -> dict[str, Any]:
    """Launches and estimated steps of the host program for an Ascend chip, or why there is none."""
    from pangu_compile.codegen.ascend.host import generate
    from pangu_compile.ir import IRError
    from pangu_compile.report.minimum import decode_minimum, stored_as

    from .targets.ascend_estimate import device_module, estimate

    config, module = compiled.config, compiled.module
    try:
        host = generate(module, target, view.context, activations=activations)
    except IRError as error:
        return {"target": target, "unavailable": " ".join(str(error).split())}
    states = device_module(module, activations).states
    least = decode_minimum(config, compiled.trunk_shapes, states, stored_as(module), view.context)
    return estimate(module, host.plan, config, view.chip, view.acceptance, least.total, view.context)


def _context(opened: Opened, wanted: int | None) -> int:
    """Rows cached at decode. UserError where the model, or the artifact, does not take so many."""
    limit, why = opened.config.max_position_embeddings, "the model's max_position_embeddings"
    if opened.artifact is not None:
        limit, why = int(opened.artifact.manifest["max_context"]), "the artifact's max-context"
    if wanted is None:
        return limit if opened.artifact is not None else make_options().context(limit)
    if not 1 <= wanted <= limit:
        raise UserError(f"context {wanted} is not between 1 and {limit}, {why}")
    return wanted


def _head(opened: Opened) -> dict[str, Any]:
    if opened.artifact is None:
        checkpoint = opened.checkpoint
        return {"kind": "checkpoint", "path": str(opened.path), "tensors": len(checkpoint.tensors),
                "bytes_on_disk": checkpoint.nbytes()}  # fmt: skip
    manifest = opened.artifact.manifest
    size = sum(p.stat().st_size for p in opened.path.rglob("*") if p.is_file())
    return {"kind": "artifact", "path": str(opened.path), **{k: manifest[k] for k in HEAD_KEYS if k in manifest},
            "bytes_on_disk": size}  # fmt: skip


def _operators(plan: dict[str, Any], function: dict[str, Any]) -> Counter[str]:
    """Kernels of one pass through a function, calls included."""
    counts: Counter[str] = Counter()
    for kernel in function["kernels"]:
        if kernel["op"] == "call":
            counts += _operators(plan, plan["functions"][kernel["function"]])
        else:
            counts[kernel["op"]] += 1
    return counts


def _nbytes(weight: dict[str, Any]) -> int:
    from pangu_compile.ir import DType, TensorType

    return int(TensorType(DType(weight["dtype"]), tuple(weight["shape"])).nbytes)


def plan_statistics(plan: dict[str, Any]) -> dict[str, Any]:
    """Counts and bytes of a plan record (plan.json)."""
    rows = [(s, s["width"] * ITEM_BYTES[s["dtype"]]) for s in plan["states"]]
    return {
        "max_context": plan["max_context"],
        "max_chunk": plan["max_chunk"],
        "parameters": sum(math.prod(w["shape"]) for w in plan["weights"]),
        "weight_bytes": sum(map(_nbytes, plan["weights"])),
        "cache_bytes_per_token": sum(size for s, size in rows if s["rows"] is None),
        "cache_bytes_fixed": sum(size * s["rows"] for s, size in rows if s["rows"] is not None),
        "derived_bytes_per_token": sum(d["block_bytes"] // d["block_rows"] for d in plan.get("derived", [])),
        "functions": len(plan["functions"]),
        "programs": {
            name: {
                "kernels": sum(_operators(plan, program).values()),
                "arena_bytes": program["arena_bytes"],
            }
            for name, program in plan["programs"].items()
        },
    }
