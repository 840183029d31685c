"""From a configuration to an optimised module and its plan: what every target and `inspect` do first. Nothing is read from disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pangu_compile.errors import CompileError, UserError
from pangu_compile.ir import IRError

from .options import BuildOptions
from .progress import Progress
from .traces import keep_trace, kept_trace, trace_key

if TYPE_CHECKING:
    import torch

    from pangu_compile.ir import Module
    from pangu_compile.models.config import OpenPanguConfig
    from pangu_compile.passes.quantise import Compresses
    from pangu_compile.passes.table import Pass
    from pangu_compile.plan import Plan
    from pangu_compile.report import Recorder


@contextmanager
def compile_errors(*others: type[Exception]) -> Iterator[None]:
    """Broken invariants of the compiler, IRError and `others`, become CompileError in one line."""
    caught: tuple[type[Exception], ...] = (IRError, *others)
    try:
        yield
    except caught as error:
        raise CompileError(" ".join(str(error).split())) from error


def traced_model(
    config: OpenPanguConfig, options: BuildOptions, progress: Progress, model: torch.nn.Module | None = None,
    steps: Sequence[str] | None = None,
) -> Module:  # fmt: skip
    """The traced programs, with what generated tables say of the model. They are kept for later builds (traces.py).

    Args:
        model: a user's edited reference.
        steps: the programs of a whole step with drafts that are wanted; None: all. They are made of the functions of `step` and
            the drafts, and take as long to trace as both (20 s for Flash).
    """
    progress.stage("tracing", 1)
    key = trace_key(config, options.mtp, ("all",) if steps is None else steps) if model is None else None
    module = kept_trace(key) if key is not None else None
    if module is None:
        from pangu_compile.models.programs import WHOLE_STEPS, build_programs
        from pangu_compile.trace import trace_programs

        wanted = WHOLE_STEPS if steps is None else steps
        module = trace_programs(build_programs(config, options.mtp, model, wanted))  # type: ignore[arg-type]
        if key is not None:
            keep_trace(key, module)
    module.info.update(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size,
        num_drafts=config.num_nextn_predict_layers if options.mtp else 0,
    )  # fmt: skip
    progress.advance(1)
    return module


def pass_table(options: BuildOptions, compresses: Compresses | None = None) -> tuple[Pass, ...]:
    """The passes of a build with these options' weight format."""
    from pangu_compile.passes.quantise import quantise_weights
    from pangu_compile.passes.table import PASSES, Pass

    if options.weights == "f32":
        return PASSES
    run = partial(quantise_weights, weight_format=options.stored_weights, compresses=compresses)
    quantise = Pass("quantise_weights", run, frozenset({"clean layout"}))
    return (*PASSES, quantise)


def optimise(
    module: Module, options: BuildOptions, progress: Progress, observer: Recorder | None = None,
    passes: Sequence[Pass] | None = None, compresses: Compresses | None = None,
) -> None:  # fmt: skip
    """Run the pass table, or `passes`, over the module in place; `observer` watches. compresses: see quantise_weights."""
    from pangu_compile.passes import run_passes

    progress.stage("optimising", 1)
    table = tuple(passes) if passes is not None else pass_table(options, compresses)
    try:
        with compile_errors():
            run_passes(module, validate=options.validate, dump_dir=options.dump_ir, passes=table, observer=observer)
    except OSError as error:
        raise UserError(f"cannot write {options.dump_ir}: {error.strerror}") from error
    progress.advance(1)


def planned(
    module: Module, context: int, progress: Progress, options: BuildOptions | None = None, dims: Mapping[str, int] | None = None
) -> Plan:
    """The plan of an optimised module. options: None stands for the defaults. dims: the largest value of other symbolic sizes."""
    from pangu_compile.plan import PlanOptions, make_plan

    progress.stage("planning", 1)
    with compile_errors():
        limits = PlanOptions(max_context=context, max_dims=dict(dims or {}))
        if options is not None:
            limits = replace(limits, max_chunk=options.max_chunk, key_codes=options.key_codes)
        plan = make_plan(module, limits)
    progress.advance(1)
    return plan


def optimise_and_plan(
    module: Module, options: BuildOptions, context: int, progress: Progress, dims: Mapping[str, int] | None = None,
    observer: Recorder | None = None, compresses: Compresses | None = None,
) -> Plan:  # fmt: skip
    """The pass table and the planner."""
    optimise(module, options, progress, observer, compresses=compresses)
    return planned(module, context, progress, options, dims)
