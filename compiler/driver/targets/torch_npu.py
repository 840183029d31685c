"""`--target torch_npu`: writes artifacts that are a Python program over torch_npu's operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..artifact import WEIGHTS, Artifact, ArtifactWriter, json_text
from ..manifest import model_entries, producer, program_entries, state_entries, stored_bytes, tensor_entries
from ..optimise import compile_errors, optimise, pass_table, traced_model
from ..progress import Progress
from ..rendering import render
from ..safetensors_file import Layout, LayoutWriter

if TYPE_CHECKING:
    import torch

    from pangu_compile.codegen.torch_npu.emit import Generated, StoredWeight
    from pangu_compile.ir import Module

    from ..checkpoint import Checkpoint
    from ..options import BuildOptions

PROGRAM = "src/model.py"
MAX_CHUNK = 256
ReadWeight = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Request:
    """One artifact. dtype: of activations, "bf16" or "f32"; manifest: what the caller knows (config, sizes, stop tokens).

    weights: the format that the module's weights were given, "bf16" or "f32"; None: dtype.
    report: the page of the model, from plan.json, its bytes of weights and the tokens of a call; None: without one.
    """

    module: Module
    read: ReadWeight
    chip: str
    dtype: str
    max_context: int
    manifest: Mapping[str, Any]
    max_chunk: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    extra_files: tuple[Path, ...] = ()
    report: Callable[[Mapping[str, Any], int, int], str] | None = None
    weights: str | None = None


def build_program(
    checkpoint: Checkpoint, options: BuildOptions, model: torch.nn.Module | None, out: str | Path, progress: Progress
) -> Artifact:
    """Trace, optimise and write the program of a checkpoint; `model` is a user's edited reference, or None."""
    from pangu_compile.passes import PASSES
    from pangu_compile.passes.quantise import quantise_weights
    from pangu_compile.report import Recorder

    from ..build import canonical_reader, load_config
    from ..npu_summary import NpuModel, npu_report

    config, recorder = load_config(checkpoint), Recorder()
    read = canonical_reader(checkpoint, config, options.mtp, model)
    module = traced_model(config, options, progress, model, steps=())  # generation runs the drafts one by one
    narrow = options.activations == "bf16"
    # With activations of 16 bits the program rounds all that 16-bit operators read, not just what `quantise_weights` lets be.
    optimise(module, options, progress, recorder, passes=PASSES if narrow else pass_table(options))
    manifest = model_entries(checkpoint, config, options)
    context = options.context(config.max_position_embeddings)

    def report(plan: Mapping[str, Any], weight_bytes: int, chunk: int) -> str:
        quantise_weights(module, options.weights)  # the program is written: from here on, types are for costs
        return npu_report(NpuModel(config, module, plan, "torch_npu", narrow, weight_bytes, context, chunk), options, recorder)

    request = Request(
        module, read, options.chip, "bf16" if narrow else "f32", context, manifest, options.max_chunk, options.recorded(),
        tuple(checkpoint.tokenizer_files()), report if model is None else None, options.weights,
    )  # fmt: skip
    return write_artifact(request, out, progress)


def write_artifact(request: Request, out: str | Path, progress: Progress) -> Artifact:
    """Generate, check and write the artifact of an optimised module.

    Raises:
        CompileError: an operator that has no form in torch_npu, or a generated call that its schema does not allow.
    """
    from pangu_compile.codegen.torch_npu import CallError, generate
    from pangu_compile.codegen.torch_npu.emit import Limits

    limits = Limits(request.max_context, min(request.max_chunk or MAX_CHUNK, request.max_context))
    with compile_errors(CallError):
        generated = generate(request.module, request.chip, request.dtype, limits, request.manifest)
    with ArtifactWriter(out) as writer:
        for name in sorted(generated.files):
            writer.write(f"src/{name}", generated.files[name])
        layout = _write_weights(generated, request.read, writer, progress)
        writer.write("plan.json", json_text(generated.plan))
        for file in request.extra_files:
            writer.copy(file, file.name)
        writer.write("README.md", _readme(request, generated))
        manifest = _manifest(request, limits.max_chunk, layout)
        if request.report is not None:
            writer.write("report.html", request.report(generated.plan, stored_bytes(layout), limits.max_chunk))
        return writer.commit(manifest)


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """float32 values as the 16 bits of bfloat16, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), (bits >> np.uint32(16)) | np.uint32(0x40), rounded).astype(np.uint16)


def stored_values(weight: StoredWeight, read: ReadWeight) -> np.ndarray:
    """The array as it lies in weights.safetensors."""
    values = weight.planned.compute(read)
    if weight.taps_first:
        values = np.ascontiguousarray(values[:, 0, :].T)
    return bf16_bits(values) if weight.dtype == "BF16" else values


def _write_weights(generated: Generated, read: ReadWeight, writer: ArtifactWriter, progress: Progress) -> Layout:
    layout = Layout((w.planned.name, w.dtype, w.shape) for w in generated.weights)
    progress.stage("weights", max(layout.total, 1))
    with writer.stream(WEIGHTS) as stream:
        out = LayoutWriter(layout, stream)
        progress.advance(len(layout.header))
        for weight in generated.weights:
            values = stored_values(weight, read)
            out.add(weight.planned.name, values)
            progress.advance(values.nbytes)
        out.finish()
    return layout


def _readme(request: Request, generated: Generated) -> str:
    return render(
        "torch_npu_README.md.jinja", chip=request.chip, dtype=request.dtype, weights=request.weights or request.dtype,
        plan=generated.plan, max_context=request.max_context,
    )


def _manifest(request: Request, max_chunk: int, layout: Layout) -> dict[str, Any]:
    module = request.module
    return {
        "producer": producer(),
        "role": module.info["role"],
        **request.manifest,
        "target": "torch_npu", "chip": request.chip, "weights": request.weights or request.dtype,
        "max_context": request.max_context, "max_chunk": max_chunk, "options": dict(request.options),
        "entry_points": {"program": PROGRAM, "weights": WEIGHTS},
        "programs": program_entries(module.programs), "tensors": tensor_entries(layout),
        "states": state_entries(module.states.values(), request.dtype),
    }  # fmt: skip
