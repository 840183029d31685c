"""Which tensors of a checkpoint make up which parameter of the model, whatever layout the checkpoint has.

Canonical names are the reference's own parameter names: those of Hugging Face with the experts stacked. `bind` decides
from names, shapes and dtypes alone, so nothing is read before the whole checkpoint is known to fit.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from pangu_compile.errors import UserError

from .config import OpenPanguConfig
from .reference import OpenPanguForCausalLM

FLOAT_DTYPES = ("F32", "F16", "BF16")
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
GATE_UP, DOWN, ROUTER_BIAS = ".experts.gate_up_proj", ".experts.down_proj", ".e_score_correction_bias"
K_NORM_BIAS = ".indexer.k_norm.bias"
LAYER = re.compile(r"model\.layers\.(\d+)\.")
# Part of a tensor name -> the config field that decides whether such tensors exist.
DECIDED_BY = {
    "_mhc_module.norm_gamma": "mhc_use_gamma", "_mhc_module.": "use_mhc", "_conv.weight": "use_mome",
    ".param_sink_": "param_sink_number", "e_score_correction_bias": "router_enable_expert_bias",
    ".shared_experts.": "n_shared_experts", ".indexer.": "dsa_layers", ".block_post_layernorm.":
    "block_post_layernorm_idx", "_mlp_layernorm.": "sandwich_norm", ".q_a_": "q_lora_rank", ".q_b_": "q_lora_rank",
    ".q_proj.": "q_lora_rank", ".experts.": "n_routed_experts", ".mlp.": "first_k_dense_replace",
    "lm_head.": "tie_word_embeddings",
}  # fmt: skip


class Meta(Protocol):
    """What `bind` reads of a stored tensor; a `file` attribute, where there is one, goes into messages."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str: ...


class Stored(NamedTuple):
    """The least that is a Meta."""

    shape: tuple[int, ...]
    dtype: str = "F32"


Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Piece:
    """One stored tensor, and which part of the parameter it fills; () is all of it."""

    source: str
    index: Index = ()


@dataclass(frozen=True)
class Binding:
    """One parameter: the pieces that fill it, and stored copies that must hold the same values."""

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    must_equal: tuple[str, ...] = ()

    def read(self, read: Callable[[str], np.ndarray]) -> np.ndarray:
        """The parameter as float32.

        Args:
            read: stored name -> float32 array.
        Raises:
            UserError: a copy differs.
        """
        if self.pieces[0].index == ():
            value = read(self.pieces[0].source)
        else:
            value = np.empty(self.shape, np.float32)
            for piece in self.pieces:
                value[piece.index] = read(piece.source)
        for copy in self.must_equal:
            if not np.array_equal(value, read(copy)):
                raise UserError(f"tensor {copy} differs from {self.name}, of which it must be a copy")
        return value

    def parts(
        self, read: Callable[[str], np.ndarray], read_rows: Callable[[str, int, int], np.ndarray]
    ) -> Iterator[np.ndarray]:
        """What `read` gives, one expert of a stacked parameter at a time; other parameters in one piece.

        Args:
            read_rows: stored name, begin, end -> rows of the first axis as float32.
        """
        if len(self.shape) < 3 or self.must_equal:
            yield self.read(read)
        elif self.pieces[0].index == ():
            for i in range(self.shape[0]):
                yield read_rows(self.pieces[0].source, i, i + 1)[0]
        else:
            for _, group in itertools.groupby(self.pieces, key=lambda piece: piece.index[0]):
                value = np.empty(self.shape[1:], np.float32)
                for piece in group:
                    value[piece.index[1:]] = read(piece.source)
                yield value


class Bindings(Mapping[str, Binding]):
    """Canonical name -> Binding, in the model's order.

    Attributes:
        ignored: stored tensors that nobody reads (those of MTP layers, when they are left out).
    """

    def __init__(self, table: Mapping[str, Binding], ignored: tuple[str, ...] = ()):
        self._table, self.ignored = dict(table), ignored

    def __getitem__(self, name: str) -> Binding:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


@functools.lru_cache(maxsize=4)
def _shapes(config: OpenPanguConfig) -> tuple[tuple[str, tuple[int, ...]], ...]:
    with torch.device("meta"):
        model = OpenPanguForCausalLM(config)
    return tuple((name, tuple(value.shape)) for name, value in model.named_parameters())


def parameter_shapes(config: OpenPanguConfig, mtp: bool = True) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every parameter, in the model's order; without the MTP layers if mtp is False."""
    return {name: shape for name, shape in _shapes(config) if mtp or not is_mtp(config, name)}


def layer_of(name: str) -> int | None:
    """The layer that a tensor belongs to, None outside of layers."""
    match = LAYER.match(name)
    return int(match[1]) if match else None


def is_mtp(config: OpenPanguConfig, name: str) -> bool:
    layer = layer_of(name)
    return layer is not None and config.num_hidden_layers <= layer < config.num_layers


def checkpoint_config(config: OpenPanguConfig, names: Mapping[str, object]) -> OpenPanguConfig:
    """The config with what only the tensor names tell: with a k_norm bias, the indexer's norm is a LayerNorm."""
    biased = any(name.endswith(K_NORM_BIAS) for name in names)
    return dataclasses.replace(config, index_k_norm_bias=True) if biased else config


def bind(config: OpenPanguConfig, available: Mapping[str, Meta], mtp: bool = True) -> Bindings:
    """Resolve every parameter against the stored tensors.

    Args:
        available: stored name -> shape and dtype (safetensors' names); `Stored` or anything with these attributes.
        mtp: False leaves the MTP layers out; tensors of theirs are then ignored.
    Raises:
        UserError: a tensor is missing, left over, of a wrong shape or dtype, or stored twice; the message names it.
    """
    return _Binder(config, available, mtp).bind()


class _Binder:
    """One resolution; `left` holds the stored names that nothing has claimed yet."""

    def __init__(self, config: OpenPanguConfig, available: Mapping[str, Meta], mtp: bool):
        self.config, self.available, self.mtp = config, available, mtp
        self.left = dict.fromkeys(available)

    def bind(self) -> Bindings:
        table: dict[str, Binding] = {}
        for name, shape in parameter_shapes(self.config, self.mtp).items():
            table[name] = Binding(name, shape, self._pieces(name, shape), self._copies(name, shape))
        ignored = () if self.mtp else tuple(n for n in self.left if is_mtp(self.config, n))
        for name in ignored:
            del self.left[name]
        if self.left:
            raise self._left_over(next(iter(self.left)))
        return Bindings(table, ignored)

    def _claim(self, name: str, shape: tuple[int, ...]) -> str:
        stored = self.available[name]
        if stored.dtype not in FLOAT_DTYPES:
            raise self._fail(name, f"has dtype {stored.dtype}; expected one of {', '.join(FLOAT_DTYPES)}")
        if tuple(stored.shape) != shape:
            raise self._fail(name, f"has shape {list(stored.shape)}; config.json asks for {list(shape)}")
        self.left.pop(name, None)
        return name

    def _pieces(self, name: str, shape: tuple[int, ...]) -> tuple[Piece, ...]:
        if name.endswith((GATE_UP, DOWN)):
            return self._expert_pieces(name, shape)
        if name.endswith(ROUTER_BIAS):
            other = name.removesuffix(ROUTER_BIAS) + ".gate" + ROUTER_BIAS
            if other in self.available:
                if name in self.available:
                    raise self._fail(other, f"is also stored as {name}; keep one of the two")
                return (Piece(self._claim(other, shape)),)
        if name not in self.available:
            raise self._missing(name, shape)
        return (Piece(self._claim(name, shape)),)

    def _expert_pieces(self, name: str, shape: tuple[int, ...]) -> tuple[Piece, ...]:
        base, _, last = name.rpartition(".")
        experts, rows, columns = shape
        parts = ("gate_proj", "up_proj") if last == "gate_up_proj" else ("down_proj",)
        single = {p: [f"{base}.{e}.{p}.weight" for e in range(experts)] for p in parts}
        split = next((n for names in single.values() for n in names if n in self.available), None)
        if name in self.available:
            if split is not None:
                raise self._fail(split, f"is also stored stacked as {name}; keep one of the two")
            return (Piece(self._claim(name, shape)),)
        if split is None:
            raise self._missing(name, shape, f" (nor {single[parts[0]][0]})")
        height, pieces = rows // len(parts), []
        for e in range(experts):
            for i, part in enumerate(parts):
                source = single[part][e]
                if source not in self.available:
                    raise self._missing(source, (height, columns))
                index: Index = (e, slice(i * height, (i + 1) * height)) if len(parts) > 1 else (e,)
                pieces.append(Piece(self._claim(source, (height, columns)), index))
        return tuple(pieces)

    def _copies(self, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Stored copies of the embedding and of the output head."""
        tied = self.config.tie_word_embeddings
        prefixes = [f"model.layers.{i}." for i in range(self.config.num_hidden_layers, self.config.num_layers)]
        copies: list[str] = []
        if name == EMBED:
            copies += [p + "embed_tokens.weight" for p in prefixes] if self.mtp else []
            copies += [HEAD] if tied else []
        if name == (EMBED if tied else HEAD) and self.mtp:
            copies += [p + "shared_head.head.weight" for p in prefixes]
        return tuple(self._claim(copy, shape) for copy in copies if copy in self.available)

    def _fail(self, name: str, what: str) -> UserError:
        file = getattr(self.available.get(name), "file", None)
        return UserError(f"{file}: tensor {name} {what}" if file else f"tensor {name} {what}")

    def _missing(self, name: str, shape: tuple[int, ...], more: str = "") -> UserError:
        return UserError(f"tensor {name} of shape {list(shape)} is missing from the checkpoint{more}{self._why(name)}")

    def _left_over(self, name: str) -> UserError:
        layer = layer_of(name)
        if layer is not None and layer >= self.config.num_layers:
            return self._fail(
                name, f"is not part of this model: config.json has {self.config.num_hidden_layers} layers"
                f" (num_hidden_layers) and {self.config.num_nextn_predict_layers} more (num_nextn_predict_layers)"
            )  # fmt: skip
        return self._fail(name, f"is not part of this model{self._why(name)}")

    def _why(self, name: str) -> str:
        """The config field that decides whether `name` exists, for messages."""
        field = next((field for part, field in DECIDED_BY.items() if part in name), None)
        if field is None:
            return ""
        value = getattr(self.config, field)
        if isinstance(value, bool) or value is None:
            value = {True: "true", False: "false", None: "null"}[value]
        return f"; config.json has {field} {list(value) if isinstance(value, tuple) else value}"
