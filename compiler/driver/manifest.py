"""Entries of manifest.json that artifacts of all targets share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pangu_compile.errors import UserError

from .checkpoint import Checkpoint, read_json_object
from .safetensors_file import Layout

if TYPE_CHECKING:
    from pangu_compile.ir import Program, StateInfo
    from pangu_compile.models.config import OpenPanguConfig
    from pangu_compile.plan import ProgramPlan

    from .options import BuildOptions


def producer() -> dict[str, str]:
    from pangu_compile import __version__

    return {"name": "pangu-compile", "version": __version__}


def model_entries(checkpoint: Checkpoint, config: OpenPanguConfig, options: BuildOptions) -> dict[str, Any]:
    """What the checkpoint says of a language model."""
    return {
        "model_type": str(checkpoint.config.get("model_type", "")),
        "config": config.to_dict(),
        "eos_token_ids": eos_token_ids(checkpoint),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_drafts": config.num_nextn_predict_layers if options.mtp else 0,
    }


def eos_token_ids(checkpoint: Checkpoint) -> list[int]:
    """The stop tokens of config.json, else of generation_config.json."""
    value = checkpoint.config.get("eos_token_id")
    generation = checkpoint.folder / "generation_config.json"
    if value is None and generation.is_file():
        value = read_json_object(generation).get("eos_token_id")
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise UserError(f"{checkpoint.folder / 'config.json'}: eos_token_id must be a token id or a list of them")
    return values


def program_entries(programs: Mapping[str, Program] | Mapping[str, ProgramPlan]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "dims": list(p.dims),
            "inputs": [role.key for role in p.params if role.kind == "input"],
            "outputs": [role.key for role in p.outputs if role.kind == "output"],
        }
        for name, p in programs.items()
    }


def tensor_entries(layout: Layout) -> dict[str, dict[str, Any]]:
    return {
        e.name: {"dtype": e.dtype, "shape": list(e.shape), "offset": e.offset, "nbytes": e.nbytes} for e in layout.entries.values()
    }


def stored_bytes(layout: Layout) -> int:
    """Bytes of all tensors, without what lies between them."""
    return sum(e.nbytes for e in layout.entries.values())


def state_entries(states: Iterable[StateInfo], dtype: str | None = None) -> list[dict[str, Any]]:
    """dtype: how the target stores all of them; None: as they were traced."""
    return [
        {"name": s.name, "dtype": dtype or s.dtype, "width": s.width, "rows": s.rows, "owner": s.owner} for s in states
    ]
