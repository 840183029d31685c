"""`--target ascend910b|ascend910_93`: writes artifacts that CANN builds: AscendC kernels and a host program over acl and aclnn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pangu_compile.errors import CompileError

from ..artifact import WEIGHTS, Artifact, ArtifactWriter, json_text
from ..bf16 import from_bf16, to_bf16
from ..emit import ReadParts, ReadWeight, copy_runtime, parameter_parts
from ..manifest import model_entries, producer, program_entries, state_entries, stored_bytes, tensor_entries
from ..optimise import compile_errors, optimise, traced_model
from ..packing import pack_parts, quantise_q8
from ..progress import Progress
from ..rendering import render
from ..safetensors_file import Layout, LayoutWriter

if TYPE_CHECKING:
    import torch

    from pangu_compile.codegen.ascend.host import HostProgram, StoredWeight
    from pangu_compile.ir import Module

    from ..build import CanonicalReader
    from ..checkpoint import Checkpoint
    from ..options import BuildOptions

STEPS = ("speculate",)  # the runtime verifies sampled drafts itself, one program at a time
FORMS = {"bf16": "BF16", "split": "BF16", "f32": "F32", "taps": "F32", "int8": "U8", "int8 joined": "U8"}
# A chip of each family, for the command in the artifact's README; `npu-smi info` names the one at hand.
EXAMPLE_CHIPS = {"ascend910b": "Ascend910B2", "ascend910_93": "Ascend910_9392"}


@dataclass(frozen=True)
class Request:
    """One artifact. manifest: what the caller knows (config, sizes, stop tokens).

    report: the page of the model, from plan.json, its bytes of weights and the tokens of a call; None: without one.
    """

    module: Module
    read: ReadWeight
    parts: ReadParts | None
    options: BuildOptions
    max_context: int
    manifest: Mapping[str, Any]
    extra_files: tuple[Path, ...] = ()
    report: Callable[[Mapping[str, Any], int, int], str] | None = None


def build_ascend(
    checkpoint: Checkpoint, options: BuildOptions, model: torch.nn.Module | None, out: str | Path, progress: Progress
) -> Artifact:
    """Trace, optimise and write the artifact of a checkpoint; `model` is a user's edited reference, or None."""
    from pangu_compile.report import Recorder

    from ..build import canonical_reader, load_config
    from ..npu_summary import NpuModel, npu_report

    config, recorder = load_config(checkpoint), Recorder()
    read: CanonicalReader = canonical_reader(checkpoint, config, options.mtp, model)
    module = traced_model(config, options, progress, model, STEPS)
    optimise(module, options, progress, recorder)
    manifest = model_entries(checkpoint, config, options)
    context = options.context(config.max_position_embeddings)

    def report(plan: Mapping[str, Any], weight_bytes: int, chunk: int) -> str:
        narrow = options.activations == "bf16"
        return npu_report(NpuModel(config, module, plan, options.target, narrow, weight_bytes, context, chunk), options, recorder)

    request = Request(
        module, read, read.parts, options, context, manifest, tuple(checkpoint.tokenizer_files()), report if model is None else None
    )
    return write_artifact(request, out, progress)


def write_artifact(request: Request, out: str | Path, progress: Progress) -> Artifact:
    """Generate and write the artifact of an optimised module.

    Raises:
        CompileError: an operator, or a shape, that has no form on the chip.
    """
    from pangu_compile.codegen.ascend.host import generate

    options = request.options
    with compile_errors():
        host = generate(request.module, options.target, request.max_context, options.max_chunk, options.activations)
    chains = weight_chains(host.weights)
    layout = Layout((_tensor_name(c), FORMS[c[0].form], _stored_shape(c)) for c in chains)
    with ArtifactWriter(out) as writer:
        _write_sources(host, weight_offsets(chains, layout), options.target, writer)
        _write_weights(chains, layout, request, writer, progress)
        writer.write("plan.json", json_text(host.plan))
        for file in request.extra_files:
            writer.copy(file, file.name)
        writer.write("README.md", render("ascend_README.md.jinja", trim=True, **_facts(request, host)))
        manifest = _manifest(request, host, layout)
        if request.report is not None:
            writer.write("report.html", request.report(host.plan, stored_bytes(layout), host.max_chunk))
        return writer.commit(manifest)


# Weights.


def weight_chains(weights: list[StoredWeight]) -> list[list[StoredWeight]]:
    """Weights that lie directly one behind the other, in order; most are alone."""
    following = {w.behind: w for w in weights if w.behind is not None}
    chains = []
    for first in (w for w in weights if w.behind is None):
        chain = [first]
        while (after := following.get(chain[-1].planned.name)) is not None:
            chain.append(after)
        chains.append(chain)
    return chains


def weight_offsets(chains: list[list[StoredWeight]], layout: Layout) -> dict[str, int]:
    """Byte offset of every weight in the file."""
    starts, offsets = layout.offsets(), {}
    for chain in chains:
        at = starts[_tensor_name(chain)]
        for weight in chain:
            offsets[weight.planned.name] = at
            at += weight.nbytes
    return offsets


def _tensor_name(chain: list[StoredWeight]) -> str:
    return "+".join(w.planned.name for w in chain)


def _stored_shape(chain: list[StoredWeight]) -> tuple[int, ...]:
    from pangu_compile.codegen.ascend.host import int8_bytes

    first = chain[0]
    if first.is_int8:
        return (int8_bytes(chain),)
    if first.form == "split":
        return (*first.planned.shape[:-1], 2 * first.planned.shape[-1])
    if first.form == "taps":
        channels, _, taps = first.planned.shape
        return (taps, channels)
    rows = sum(w.planned.shape[0] for w in chain) if first.planned.shape else 0
    return (rows, *first.planned.shape[1:]) if first.planned.shape else ()


def stored_pieces(weight: StoredWeight, request: Request) -> Iterator[np.ndarray]:
    """The weight's bytes as they lie in the file, in order, a piece of the parameter at a time."""
    planned = weight.planned
    if weight.form == "taps":
        yield np.ascontiguousarray(planned.compute(request.read)[:, 0, :].T)
    elif weight.form == "f32":
        yield planned.compute(request.read)
    elif weight.form == "split":
        values = np.asarray(planned.compute(request.read), np.float32)
        high = to_bf16(values)
        yield np.concatenate([high, to_bf16(values - from_bf16(high))], -1)
    else:
        parts = float_parts(weight, request)
        yield from pack_parts(weight.form, tuple(planned.shape), parts, planned.name, request.options.jobs)


def float_parts(weight: StoredWeight, request: Request) -> Iterator[np.ndarray]:
    """The parameter in float32, one expert of a stacked one at a time."""
    return parameter_parts(weight.planned, request.read, request.parts)


def int8_pieces(chain: list[StoredWeight], request: Request) -> Iterator[np.ndarray]:
    """Rows of all weights of the chain, padding, their scales."""
    from pangu_compile.codegen.ascend.host import int8_bytes

    scales = []
    for weight in chain:
        for part in float_parts(weight, request):
            rows = np.ascontiguousarray(part, np.float32).reshape(-1, weight.planned.shape[-1])
            if not np.isfinite(rows).all():
                raise CompileError(f"weight {weight.planned.name} holds NaN or infinity; use --weights bf16")
            values, scale = quantise_q8(rows)
            scales.append(scale)
            yield values
    size = sum(w.nbytes for w in chain)
    yield np.zeros(int8_bytes(chain) - size - sum(s.nbytes for s in scales), np.uint8)
    yield from scales


def _write_weights(
    chains: list[list[StoredWeight]], layout: Layout, request: Request, writer: ArtifactWriter, progress: Progress
) -> None:
    progress.stage("weights", max(layout.total, 1))
    with writer.stream(WEIGHTS) as stream:
        out = LayoutWriter(layout, stream)
        progress.advance(len(layout.header))
        for chain in chains:
            if chain[0].is_int8:
                pieces = int8_pieces(chain, request)
            else:
                pieces = (piece for weight in chain for piece in stored_pieces(weight, request))
            out.add_pieces(_tensor_name(chain), pieces)
            progress.advance(sum(w.nbytes for w in chain))
        out.finish()


# Sources.


def _write_sources(host: HostProgram, offsets: Mapping[str, int], target: str, writer: ArtifactWriter) -> None:
    files = {**host.files, "host/model.cpp": host.model(offsets)}
    for name in sorted(files):
        writer.write(f"src/{name}", files[name])
    sources = sorted([*files, *copy_runtime(writer)])
    listed = {
        "kernels": [name for name in sources if name.startswith("kernels/") and name.endswith(".cpp")],
        "sources": [name for name in sources if not name.startswith("kernels/") and name.endswith(".cpp")],
    }
    writer.write("src/CMakeLists.txt", render("ascend_CMakeLists.txt.jinja", trim=True, chip=EXAMPLE_CHIPS[target], **listed))
    writer.write("src/check.c", render("ascend_check.c.jinja", trim=True))


def _facts(request: Request, host: HostProgram) -> dict[str, Any]:
    target = request.options.target
    return {
        "target": target, "chip": EXAMPLE_CHIPS[target], "kernels": host.kernels, "max_context": request.max_context,
        "max_chunk": host.max_chunk, "weights": request.options.weights, "activations": request.options.activations,
    }  # fmt: skip


def _manifest(request: Request, host: HostProgram, layout: Layout) -> dict[str, Any]:
    module, options = request.module, request.options
    return {
        "producer": producer(),
        "role": module.info["role"],
        **request.manifest,
        "target": options.target, "weights": options.weights, "max_context": request.max_context, "max_chunk": host.max_chunk,
        "options": options.recorded(),
        "entry_points": {"sources": "src/CMakeLists.txt", "weights": WEIGHTS, "header": "include/pangu_runtime.h"},
        "programs": program_entries(module.programs), "tensors": tensor_entries(layout),
        "states": state_entries(module.states.values(), "bf16"),
    }  # fmt: skip
