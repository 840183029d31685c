"""Where the bytes are: weights by kind and by stored format, caches by kind against the context."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pangu_compile.ir import DType, Module, StateInfo

if TYPE_CHECKING:
    from pangu_compile.models.config import OpenPanguConfig

WEIGHT_KINDS = (
    "embedding", "attention", "indexer", "experts_routed", "experts_shared", "router", "dense_ffn", "mhc", "norms", "mtp",
    "head", "other",
)  # fmt: skip
CACHE_KINDS = ("latent_dsa", "latent_dense", "latent_swa", "index_keys", "convolutions", "mtp")
_LAYER = re.compile(r"layers\.(\d+)\.")
# Part of a name -> kind; the first that fits decides.
_PARTS = (
    ("embed_tokens", "embedding"), ("lm_head", "head"), ("mhc_module", "mhc"), (".indexer.", "indexer"),
    (".shared_experts.", "experts_shared"), (".experts.", "experts_routed"), (".mlp.gate.weight", "router"),
    ("e_score_correction_bias", "router"), ("norm", "norms"), (".self_attn.", "attention"), (".mlp.", "dense_ffn"),
)  # fmt: skip


def layer_of(name: str) -> int | None:
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def weight_kind(name: str, layers: int) -> str:
    """Kind of a parameter by its canonical name; `layers`: how many base layers there are (MTP layers follow)."""
    layer = layer_of(name)
    if layer is not None and layer >= layers:
        return "mtp"
    return next((kind for part, kind in _PARTS if part in name), "other")


def active_share(config: OpenPanguConfig, name: str, shape: tuple[int, ...]) -> tuple[bool, int]:
    """(does a decode step read the parameter, how many of its rows): chosen experts, one row of the embedding."""
    kind = weight_kind(name, config.num_hidden_layers)
    if kind == "mtp":
        return False, 0
    if kind == "experts_routed":
        return True, min(config.num_experts_per_tok, shape[0])
    if kind == "embedding":
        return True, shape[0] if config.tie_word_embeddings else 1
    return True, shape[0] if shape else 1


def used_weights(module: Module) -> list[str]:
    """Names of the weights that some program reads, each once."""
    return list(dict.fromkeys(r.key for p in module.programs.values() for r in p.params if r.kind == "weight"))


def weight_table(module: Module, layers: int) -> dict[str, list[dict[str, Any]]]:
    """{"by_kind": [{kind, parameters, bytes}], "by_dtype": [{dtype, parameters, bytes}]} of all that the artifact stores."""
    kinds: dict[str, list[int]] = {}
    dtypes: dict[str, list[int]] = {}
    for name in used_weights(module):
        type_ = module.weights[name]
        folded = module.folded.get(name)
        kind = weight_kind(folded.sources[0] if folded is not None else name, layers)
        for table, key in ((kinds, kind), (dtypes, type_.dtype.value)):
            entry = table.setdefault(key, [0, 0])
            entry[0] += int(type_.numel)
            entry[1] += int(type_.nbytes)
    return {
        "by_kind": [_row("kind", k, kinds[k]) for k in WEIGHT_KINDS if k in kinds],
        "by_dtype": [_row("dtype", d.value, dtypes[d.value]) for d in DType if d.value in dtypes],
    }


def _row(label: str, key: str, entry: list[int]) -> dict[str, Any]:
    return {label: key, "parameters": entry[0], "bytes": entry[1]}


def cache_kind(config: OpenPanguConfig, state: StateInfo) -> str:
    if state.owner > 0:
        return "mtp"
    if state.name.endswith(".latent"):
        return f"latent_{config.attention_kind(layer_of(state.name + '.') or 0)}"
    return "index_keys" if state.name.endswith(".index") else "convolutions"


def state_bytes(state: StateInfo, context: int) -> int:
    """Memory of one state at `context` rows."""
    return (state.rows if state.rows is not None else context) * state.width * DType(state.dtype).nbytes


def contexts(longest: int) -> list[int]:
    """Powers of two up to the longest context, itself included."""
    steps = [1 << n for n in range(10, 40) if 1 << n < longest]
    return [*(steps or [max(1, longest // 2)]), longest]


def cache_table(config: OpenPanguConfig, states: Mapping[str, StateInfo], at: Iterable[int]) -> dict[str, Any]:
    """Bytes by kind of state for every context in `at`."""
    points = list(at)
    kinds: dict[str, list[int]] = {}
    for state in states.values():
        row = kinds.setdefault(cache_kind(config, state), [0] * len(points))
        for i, context in enumerate(points):
            row[i] += state_bytes(state, context)
    table = {k: kinds[k] for k in CACHE_KINDS if k in kinds}
    grows = sum(state_bytes(s, 1) for s in states.values() if s.rows is None)
    fixed = sum(state_bytes(s, 0) for s in states.values() if s.rows is not None)
    return {
        "contexts": points, "kinds": table, "total": [sum(row[i] for row in table.values()) for i in range(len(points))],
        "bytes_per_token": grows, "bytes_fixed": fixed,
    }  # fmt: skip
