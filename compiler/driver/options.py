"""Build options: one frozen record. The environment is read here and nowhere else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pangu_compile.errors import UserError

TARGETS = ("cpu", "ascend910b", "ascend910_93", "torch_npu")
WEIGHT_FORMATS = ("f32", "bf16", "int8", "int4", "w8a16", "w8a8")
ARCHS = ("native", "x86-64-v3", "aarch64")
ASCEND_TARGETS = ("ascend910b", "ascend910_93")
CHIPS = ("ascend910b", "ascend910_93", "ascend950")  # that --target torch_npu knows
ACTIVATIONS = ("float32", "bf16")  # of NPU targets
DEFAULT_CONTEXT = 4096


@dataclass(frozen=True)
class BuildOptions:
    """Everything that a build depends on besides the checkpoint.

    max_context: None picks min(the model's max_position_embeddings, 4096).
    max_chunk: tokens of one prefill call; None lets the planner choose by the scratch memory that it costs.
    key_codes: CPU sessions keep integers of the indexer's keys beside them, which are faster to scan (a tenth more memory for a
        token of a sparse layer). The tokens are the same without.
    compiler: the C++ compiler command, None looks for one.
    opt_level: N of the compiler's -ON; tests that build many models take 1.
    chip: for the target torch_npu, which operators there are.
    activations: for NPU targets, the accuracy of activations and caches.
    """

    target: str = "cpu"
    weights: str = "f32"
    max_context: int | None = None
    max_chunk: int | None = None
    arch: str = "native"
    mtp: bool = True
    validate: bool = False
    dump_ir: Path | None = None
    ranks: int = 1
    compiler: str | None = None
    jobs: int = 2
    opt_level: int = 3
    chip: str = CHIPS[0]
    activations: str = ACTIVATIONS[0]
    key_codes: bool = True

    def __post_init__(self) -> None:
        _choice("target", self.target, TARGETS)
        _choice("weights", self.weights, WEIGHT_FORMATS)
        _choice("arch", self.arch, ARCHS)
        _choice("chip", self.chip, CHIPS)
        _choice("activations", self.activations, ACTIVATIONS)
        if self.target == "torch_npu" and self.weights not in ("bf16", "f32"):
            raise UserError(f"weights {self.weights!r} is not available for torch_npu in this version; use bf16 or f32")
        if self.target == "torch_npu" and self.weights == "f32" and self.activations == "bf16":
            raise UserError("weights 'f32' needs activations float32; with bf16 use weights bf16")
        if self.target in ASCEND_TARGETS and self.weights not in ("bf16", "int8", "w8a16", "w8a8"):
            raise UserError(
                f"weights {self.weights!r} is not available for {self.target} in this version; use bf16, int8, or int8 with"
                " activations of fewer bits, w8a16 or w8a8"
            )
        if self.target in ASCEND_TARGETS and self.weights == "w8a16" and self.activations == "bf16":
            raise UserError("weights 'w8a16' needs activations float32; with bf16 use w8a8")
        for name in ("max_chunk", "ranks", "jobs", "max_context"):
            value = getattr(self, name)
            if name.startswith("max_") and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name.replace('_', '-')} must be a whole number of at least 1, not {value!r}")
        if self.opt_level not in (0, 1, 2, 3):
            raise UserError(f"opt-level must be 0 to 3, not {self.opt_level!r}")
        if self.ranks != 1:
            raise UserError("ranks: this version builds for one rank only; leave --ranks at 1")

    @property
    def stored_weights(self) -> str:
        """The format of `passes.quantise`: int8 on Ascend says how its activations are rounded, to 24 bits or, of bf16, to 8."""
        if self.weights == "int8" and self.target in ASCEND_TARGETS:
            return "w8a24" if self.activations == "float32" else "w8a8"
        return self.weights

    def context(self, max_position_embeddings: int) -> int:
        """The context to build for.

        Raises:
            UserError: it exceeds what the model was made for.
        """
        if self.max_context is None:
            return min(max_position_embeddings, DEFAULT_CONTEXT)
        if self.max_context > max_position_embeddings:
            raise UserError(
                f"max-context {self.max_context} exceeds the model's max_position_embeddings {max_position_embeddings}"
            )
        return self.max_context

    def recorded(self) -> dict[str, Any]:
        """What goes into the manifest: only what changes the artifact, no paths."""
        return {
            "target": self.target, "weights": self.weights, "max_chunk": self.max_chunk,
            "arch": self.arch, "mtp": self.mtp, "ranks": self.ranks,
            "opt_level": self.opt_level,
            **({"key_codes": self.key_codes} if self.target == "cpu" else {"activations": self.activations}),
        }  # fmt: skip


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{name} {value!r} is not one of {', '.join(known)}")


def make_options(**options: Any) -> BuildOptions:
    """BuildOptions from keyword arguments; unknown names are a UserError. Takes the compiler from CXX."""
    unknown = sorted(set(options) - set(BuildOptions.__dataclass_fields__))
    if unknown:
        raise UserError(f"unknown build option {unknown[0]!r}; known: {', '.join(BuildOptions.__dataclass_fields__)}")
    if options.get("weights") is None:
        options["weights"] = "f32" if options.get("target", "cpu") == "cpu" else "bf16"
    if options.get("compiler") is None:
        options["compiler"] = os.environ.get("CXX", "").strip() or None
    if options.get("dump_ir") is not None:
        options["dump_ir"] = Path(options["dump_ir"])
    return BuildOptions(**options)


def cache_folder() -> Path:
    """Where compiled files that later builds and runs can use are kept: PANGU_CACHE, else the user's cache."""
    given = os.environ.get("PANGU_CACHE", "").strip()
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME", "").strip() or Path.home() / ".cache") / "pangu-compile"


def debug_enabled() -> bool:
    """PANGU_DEBUG=1 shows the traceback of an unexpected error."""
    return os.environ.get("PANGU_DEBUG", "") == "1"
