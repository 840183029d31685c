"""Loads a checkpoint folder into the reference model."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from pangu_compile.errors import UserError

from .config import OpenPanguConfig
from .reference import OpenPanguForCausalLM
from .tensors import Stored, bind, checkpoint_config

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder. UserError if there are none, or the index is broken."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(file) for file in weight_map.values()})
    except FileNotFoundError:
        raise UserError(f"{folder}: no weights; expected {SINGLE} or {INDEX}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: no weight_map of tensor names to file names ({error})") from None
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{index}: shard {name} is missing from {folder}")
    return [folder / name for name in names]


def load_reference(folder: str | Path, dtype: torch.dtype = torch.float64, mtp: bool = True) -> OpenPanguForCausalLM:
    """The reference model with the checkpoint's weights, in eval mode.

    Args:
        folder: config.json and safetensors (one file, or shards with an index).
        dtype: what the model computes in; the stored values convert exactly to float32 and wider.
        mtp: False drops the MTP heads.
    Raises:
        UserError: the folder is no checkpoint of this model; says which file, field or tensor.
    """
    folder = Path(folder)
    config = OpenPanguConfig.from_file(folder)
    with ExitStack() as stack:
        handles = _open(folder, stack)
        available = {name: _stored(handle, name) for name, handle in handles.items()}
        config = checkpoint_config(config, available)

        def read(name: str) -> np.ndarray:
            value: np.ndarray = handles[name].get_tensor(name).to(torch.float32).numpy()
            return value

        bindings = bind(config, available, mtp)
        state = {name: torch.tensor(binding.read(read), dtype=dtype) for name, binding in bindings.items()}
    model = empty_model(config if mtp else without_mtp(config))
    model.load_state_dict(state, assign=True)
    return model.eval()


def read_config(folder: str | Path) -> OpenPanguConfig:
    """A checkpoint folder's checked configuration, with what only its tensor names tell. Errors as load_reference."""
    folder = Path(folder)
    config = OpenPanguConfig.from_file(folder)
    with ExitStack() as stack:
        return checkpoint_config(config, _open(folder, stack))


def _open(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Tensor name -> the opened file that holds it. UserError for a broken file, or a tensor that is in two."""
    handles: dict[str, Any] = {}
    for path in weight_files(folder):
        try:
            handle = stack.enter_context(safe_open(str(path), framework="pt"))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: not a readable safetensors file ({error})") from None
        for name in handle.keys():  # noqa: SIM118 (a handle is no mapping)
            if name in handles:
                raise UserError(f"{path}: tensor {name} is also in another shard; it must be in one")
            handles[name] = handle
    return handles


def _stored(handle: Any, name: str) -> Stored:
    piece = handle.get_slice(name)
    return Stored(tuple(piece.get_shape()), piece.get_dtype())


def empty_model(config: OpenPanguConfig) -> OpenPanguForCausalLM:
    """The model on the meta device: shapes only."""
    with torch.device("meta"):
        return OpenPanguForCausalLM(config)


def without_mtp(config: OpenPanguConfig) -> OpenPanguConfig:
    """The same trunk with no MTP heads."""
    raw, base = config.to_dict(), config.num_hidden_layers
    raw["num_nextn_predict_layers"] = 0
    raw["dsa_layers"] = [i for i in config.dsa_layers if i < base]
    raw["swa_layers"] = [i for i in config.swa_layers if i < base]
    if config.sliding_window_list is not None:
        raw["sliding_window_list"] = [config.window(i) for i in config.swa_layers if i < base]
    return OpenPanguConfig.from_dict(raw)
