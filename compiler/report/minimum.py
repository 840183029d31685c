"""The bytes that a decode step cannot avoid, from the configuration alone (the graph is not looked at).

Weights: everything that the trunk owns, read once; of the stacked experts only those chosen, of the embedding one row.
Caches: what the attention variant sees (indexer keys of all rows and the chosen latent rows, the window, or all rows),
the convolutions' histories, and the rows that the step writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pangu_compile.ir import DType, Module, StateInfo, TensorType

from .storage import active_share

if TYPE_CHECKING:
    from pangu_compile.models.config import OpenPanguConfig

Shapes = Mapping[str, tuple[int, ...]]
StoredAs = Callable[[str], DType]


@dataclass(frozen=True)
class Minimum:
    """Bytes that one decode step must move, and the parameters that it must read."""

    weights: int
    caches: int
    parameters: int

    @property
    def total(self) -> int:
        return self.weights + self.caches


def stored_as(module: Module) -> StoredAs:
    """Parameter name -> the format that it (or what was folded from it) is stored in; float32 where neither exists."""
    folded: dict[str, DType] = {}
    for name, record in module.folded.items():
        kind = module.weights[name].dtype if name in module.weights else DType.f32
        for source in record.sources:
            current = folded.get(source)
            folded[source] = kind if current is None or _bits(kind) < _bits(current) else current

    def dtype(name: str) -> DType:
        return module.weights[name].dtype if name in module.weights else folded.get(name, DType.f32)

    return dtype


def _bits(kind: DType) -> float:
    return float(TensorType(kind, (1, 1024)).nbytes)


def decode_minimum(
    config: OpenPanguConfig, shapes: Shapes, states: Mapping[str, StateInfo], stored: StoredAs, context: int
) -> Minimum:
    """For one token with `context` rows cached. shapes: the trunk's parameters; states: dtypes of the caches."""
    weights = parameters = 0
    for name, shape in shapes.items():
        share, rows = active_share(config, name, shape)
        weights += int(TensorType(stored(name), (rows, *shape[1:])).nbytes) if share else 0
        parameters += int(TensorType(DType.f32, (rows, *shape[1:])).numel)
    caches = sum(_cache(config, layer, states, context) for layer in range(config.num_hidden_layers))
    return Minimum(weights, caches, parameters)


def _cache(config: OpenPanguConfig, layer: int, states: Mapping[str, StateInfo], context: int) -> int:
    """Rows read and written by one layer, in bytes."""

    def size(name: str) -> int:
        state = states.get(f"layers.{layer}.{name}")
        return DType(state.dtype).nbytes if state is not None else DType.f32.nbytes

    width, kind = config.kv_lora_rank + config.qk_rope_head_dim, config.attention_kind(layer)
    index = 0
    if kind == "dsa":
        rows = min(config.index_topk, context + 1)
        index = (context + 1) * config.index_head_dim * size("index")
    elif kind == "swa":
        rows = min(config.window(layer) - 1, context)
    else:
        rows = context
    total = (rows + 1) * width * size("latent") + index
    if config.use_mome:
        channels = {"conv_q": config.q_lora_rank or 0, "conv_kv": config.kv_lora_rank,
                    "conv_o": config.num_attention_heads * config.v_head_dim}  # fmt: skip
        total += sum(config.conv_width * c * size(name) for name, c in channels.items())
    return total
