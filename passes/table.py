"""The pass table: one order, what each pass needs and gives, a verifier run after each, and translation validation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pangu_compile.ir import IRError, Module, print_module, verify_module

from .attention import fuse_attention
from .canonicalise import canonicalise, clean_layout
from .experts import fuse_expert_linear
from .fold import fold_weights
from .forms import choose_forms
from .interprocedural import chain_layers, hoist_shared, inline_small
from .layers import fuse_layers
from .moe import fuse_moe
from .mtp import fuse_mtp
from .outline import outline
from .reroll import reroll
from .select import sort_to_topk
from .streams import fuse_streams
from .validate import Snapshot, compare, snapshot


@dataclass(frozen=True)
class Pass:
    """A named rewrite of a module in place; it may rely on `requires` and establishes `establishes`."""

    name: str
    run: Callable[[Module], object]
    requires: frozenset[str] = frozenset()
    establishes: frozenset[str] = frozenset()


def _facts(*names: str) -> frozenset[str]:
    return frozenset(names)


PASSES: tuple[Pass, ...] = (
    # Before any sharing across layers, so that equal layers still look equal.
    Pass("outline", outline, establishes=_facts("outlined")),
    Pass("canonicalise", canonicalise, _facts("outlined"), _facts("canonical")),
    Pass("sort_to_topk", sort_to_topk, _facts("canonical"), _facts("topk")),
    Pass("fuse_expert_linear", fuse_expert_linear, _facts("canonical"), _facts("experts")),
    # Rules match what tracing writes, so views that the passes above left are cleaned first.
    Pass("simplify_views", canonicalise, _facts("topk", "experts"), _facts("simple views")),
    Pass("fuse_layers", fuse_layers, _facts("simple views"), _facts("layers")),
    # Before the residual: the shared expert's sum is a sum of two branches too.
    Pass("fuse_moe", fuse_moe, _facts("layers"), _facts("moe")),
    Pass("fuse_streams", fuse_streams, _facts("moe"), _facts("streams")),
    Pass("fuse_attention", fuse_attention, _facts("layers"), _facts("attention")),
    Pass("inline_small", inline_small, _facts("streams", "attention"), _facts("inlined")),
    Pass("fuse_mtp", fuse_mtp, _facts("layers", "inlined"), _facts("mtp")),
    # After the fusions: what they left reading weights alone (sinks, phi with its gamma) is computed at build time.
    Pass("fold_weights", fold_weights, _facts("streams", "attention"), _facts("folded")),
    Pass("hoist_shared", hoist_shared, _facts("attention"), _facts("hoisted")),
    # After folding, since a folded weight is a parameter that can move between functions.
    Pass("chain_layers", chain_layers, _facts("folded", "hoisted"), _facts("chained")),
    Pass("choose_forms", choose_forms, _facts("attention"), _facts("forms")),
    Pass("clean_layout", clean_layout, _facts("attention"), _facts("clean layout")),
    # Last: a rerolled round is a function of its own, which the passes above would not look into.
    Pass("reroll", reroll, _facts("clean layout"), _facts("rerolled")),
)


class Observer(Protocol):
    """Told of every pass after it ran; "traced" comes first."""

    def record(self, name: str, seconds: float, module: Module) -> None: ...


def run_passes(
    module: Module, validate: bool = False, dump_dir: str | Path | None = None, passes: tuple[Pass, ...] = PASSES,
    observer: Observer | None = None,
) -> Module:  # fmt: skip
    """Run the table on `module` (in place; also returned).

    Args:
        validate: run the numpy interpreter before and after every pass on random inputs and compare.
        observer: gets the module after every pass (inspection reports).
        dump_dir: write NN-name.ir after every pass, and 00-traced.ir first.
    Raises:
        IRError: a pass broke the graph, changed its meaning (named), or ran before what it requires.
    """
    established: set[str] = set()
    _dump(module, dump_dir, 0, "traced", 0.0)
    if observer is not None:
        observer.record("traced", 0.0, module)
    before: Snapshot | None = snapshot(module) if validate else None
    for number, step in enumerate(passes, 1):
        missing = step.requires - established
        if missing:
            raise IRError(f"pass {step.name} requires {sorted(missing)}, which no pass before it establishes")
        begin = time.perf_counter()
        step.run(module)
        seconds = time.perf_counter() - begin
        for graph in module.graphs():
            graph.rename()
        try:
            verify_module(module)
        except IRError as error:
            raise IRError(f"after pass {step.name}: {error}") from error
        if before is not None:
            before = compare(step.name, before, module)
        established |= step.establishes
        _dump(module, dump_dir, number, step.name, seconds)
        if observer is not None:
            observer.record(step.name, seconds, module)
    return module


def _dump(module: Module, folder: str | Path | None, number: int, name: str, seconds: float) -> None:
    if folder is None:
        return
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{number:02d}-{name}.ir").write_text(f"// {name}: {seconds:.3f} s\n" + print_module(module))
