"""`pangu_compile.build`: checkpoint in, artifact out. The only place that knows every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pangu_compile.errors import UserError

from .artifact import Artifact, ArtifactWriter, check_destination
from .bf16 import compression
from .checkpoint import Checkpoint
from .emit import Job, emit, runtime_files
from .manifest import model_entries
from .optimise import optimise_and_plan, traced_model
from .options import ASCEND_TARGETS, BuildOptions, make_options
from .progress import Progress, Silent
from .targets.ascend import build_ascend
from .targets.torch_npu import build_program
from .toolchain import arch_flags, find_compiler

if TYPE_CHECKING:
    import torch

    from pangu_compile.ir import Module
    from pangu_compile.models.config import OpenPanguConfig
    from pangu_compile.models.tensors import Binding, Bindings
    from pangu_compile.passes.quantise import Compresses
    from pangu_compile.plan import Plan
    from pangu_compile.report import Recorder

ReadWeight = Callable[[str], np.ndarray]


def build(
    checkpoint: str | Path,
    out: str | Path,
    target: str = "cpu",
    weights: str | None = None,
    max_context: int | None = None,
    model: torch.nn.Module | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Artifact:
    """Compile a Hugging Face checkpoint folder into the artifact `out`.

    Args:
        max_context: longest sequence, in tokens; None: the model's own, at most 4096.
        model: an edited OpenPanguForCausalLM to compile instead of the reference. Its parameters on the meta device
            are read from the checkpoint, all others are taken from the module.
        weights: None picks f32, and bf16 for other targets than the CPU.
        options: further fields of BuildOptions (arch, chip, mtp, validate, dump_ir, max_chunk, key_codes).
    Returns:
        The finished artifact; an earlier artifact at `out` is replaced only when the new one is complete.
    Raises:
        UserError: a bad checkpoint, option or destination.
        CompileError: an operator that is not covered, or a C++ compiler that fails.
    """
    chosen = make_options(target=target, weights=weights, max_context=max_context, **options)
    bar = progress or Silent()
    check_destination(Path(out))
    opened = Checkpoint.open(checkpoint)
    if chosen.target == "torch_npu":
        return build_program(opened, chosen, model, out, bar)
    if chosen.target in ASCEND_TARGETS:
        return build_ascend(opened, chosen, model, out, bar)
    tools = find_compiler(chosen.compiler)
    arch_flags(tools, chosen.arch)
    runtime_files()
    config = load_config(opened)
    context = chosen.context(config.max_position_embeddings)
    read = canonical_reader(opened, config, chosen.mtp, model)
    compresses = compression(read.parts, chosen.jobs)
    module, plan, recorder = compile_model(config, chosen, context, model, bar, compresses)
    manifest = model_entries(opened, config, chosen)
    # An edited model need not have the configuration's parameters, which the report is about.
    report = "" if model is not None else model_report(config, module, plan, recorder)
    job = Job(plan, read, chosen, tools, manifest, tuple(opened.tokenizer_files()), read.parts, report)
    with ArtifactWriter(out) as writer:
        return emit(job, writer, bar)


def load_config(checkpoint: Checkpoint) -> OpenPanguConfig:
    """The checked configuration, with what only the tensor names tell; UserError names the bad field."""
    from pangu_compile.models.config import OpenPanguConfig
    from pangu_compile.models.tensors import checkpoint_config

    config = OpenPanguConfig.from_dict(checkpoint.config, str(checkpoint.folder / "config.json"))
    return checkpoint_config(config, checkpoint.tensors)


def make_model_plan(
    config: OpenPanguConfig, options: BuildOptions, context: int, model: torch.nn.Module | None, progress: Progress
) -> Plan:
    """Trace, optimise and plan a model; nothing is read from disk."""
    return compile_model(config, options, context, model, progress)[1]


def compile_model(
    config: OpenPanguConfig, options: BuildOptions, context: int, model: torch.nn.Module | None, progress: Progress,
    compresses: Compresses | None = None,
) -> tuple[Module, Plan, Recorder]:  # fmt: skip
    """The optimised module, its plan, and the history of its passes; nothing is read from disk unless `compresses` does."""
    from pangu_compile.report import Recorder

    recorder = Recorder()
    module = traced_model(config, options, progress, model)
    return module, optimise_and_plan(module, options, context, progress, observer=recorder, compresses=compresses), recorder


def model_report(config: OpenPanguConfig, module: Module, plan: Plan, recorder: Recorder) -> str:
    """report.html of an artifact: the page of `inspect`, for a reference CPU so that the bytes are the same everywhere."""
    from pangu_compile.models.tensors import parameter_shapes
    from pangu_compile.report import Compiled, View, chip, model_summary, rates_for, render_report

    from .summary import plan_statistics

    record = plan.to_json()
    view = View(plan.max_context, chip("cpu", local=False), rates_for(int(plan.info.get("num_drafts", 0)), None))
    summary = model_summary(Compiled(config, module, record, parameter_shapes(config, mtp=False), recorder), view)
    return render_report({**summary, "plan": plan_statistics(record)})


def module_tensors(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Parameters and buffers that hold data (not on the meta device), by name."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: value.detach().cpu().numpy() for name, value in tensors if value.device.type != "meta"}


class CanonicalReader:
    """Canonical parameter name -> float32 array, from the model's own tensors or from the checkpoint."""

    def __init__(self, checkpoint: Checkpoint, own: Mapping[str, np.ndarray], bindings: Bindings):
        self._checkpoint, self._own, self._bindings = checkpoint, own, bindings

    def _binding(self, name: str) -> Binding:
        if name not in self._bindings:
            raise UserError(f"{self._checkpoint.folder}: the model reads parameter {name}, which the checkpoint lacks")
        return self._bindings[name]

    def __call__(self, name: str) -> np.ndarray:
        return self._own[name] if name in self._own else self._binding(name).read(self._checkpoint.read)

    def parts(self, name: str) -> Iterator[np.ndarray]:
        """The same in pieces along the first axis: one expert of a stacked parameter at a time."""
        if name in self._own:
            yield self._own[name]
        else:
            yield from self._binding(name).parts(self._checkpoint.read, self._checkpoint.read_rows)


def canonical_reader(
    checkpoint: Checkpoint, config: OpenPanguConfig, mtp: bool = True, model: torch.nn.Module | None = None
) -> CanonicalReader:
    """Reads parameters by canonical name; at most one parameter (or expert) is in memory at a time.

    Raises:
        UserError: tensors are missing, left over, or of the wrong shape (at once, before anything is read).
    """
    from pangu_compile.models.tensors import bind

    own = module_tensors(model) if model is not None else {}
    return CanonicalReader(checkpoint, own, bind(config, checkpoint.tensors, mtp))
