"""Reads Hugging Face checkpoint folders: config.json plus one safetensors file, or shards with an index.

Weights stay on disk: `read` brings in one tensor at a time, as float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pangu_compile.errors import UserError

from .safetensors_file import FLOAT_DTYPES, FloatArray, TensorInfo, read_float, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file whose top level is an object.

    Raises:
        UserError: it cannot be read, is not JSON, or is something else than an object.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not JSON: not UTF-8 text at byte {error.start}") from error
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: must be a JSON object, not {type(value).__name__}")
    return value


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not a JSON value")


class Checkpoint:
    """An opened checkpoint folder. Only headers are in memory.

    Attributes:
        folder: the folder.
        config: config.json as it is.
        tensors: name -> TensorInfo (file, dtype, shape); empty for a folder with config.json only.
    """

    def __init__(self, folder: Path, config: dict[str, Any], tensors: dict[str, TensorInfo]):
        self.folder, self.config = folder, config
        self.tensors: Mapping[str, TensorInfo] = tensors

    @classmethod
    def open(cls, folder: str | Path, weights: bool = True) -> Checkpoint:
        """Open and check a folder: every header, the index, no tensor twice.

        Args:
            weights: False accepts a folder without weight files (enough for `inspect`).
        Raises:
            UserError: what is wrong, with file and tensor.
        """
        root = Path(folder)
        if not root.exists():
            raise UserError(f"checkpoint folder {root} does not exist")
        if not root.is_dir():
            raise UserError(f"checkpoint {root} is not a folder; give the folder that holds config.json")
        if not (root / "config.json").is_file():
            raise UserError(f"{root}: no config.json; give the folder of a Hugging Face checkpoint")
        config = read_json_object(root / "config.json")
        if (root / SINGLE).exists():
            tensors = read_header(root / SINGLE)
        elif (root / INDEX).exists():
            tensors = _read_shards(root)
        elif weights:
            raise UserError(f"{root}: no weights; expected {SINGLE} or {INDEX}")
        else:
            tensors = {}
        for info in tensors.values():
            if info.dtype not in FLOAT_DTYPES:
                raise UserError(
                    f"{info.file}: tensor {info.name} has dtype {info.dtype}; expected one of F32, F16, BF16"
                )
        return cls(root, config, tensors)

    @property
    def has_weights(self) -> bool:
        return bool(self.tensors)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor."""
        return {name: info.shape for name, info in self.tensors.items()}

    def nbytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(info.nbytes for info in self.tensors.values())

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise UserError(f"{self.folder}: tensor {name} is missing")
        return self.tensors[name]

    def read(self, name: str) -> FloatArray:
        """The whole tensor as float32. UserError if it is missing or holds NaN or infinity."""
        return self.read_rows(name, 0, None)

    def read_rows(self, name: str, begin: int, end: int | None) -> FloatArray:
        """Rows begin..end of the first axis as float32 [end-begin, ...]. Errors as `read`."""
        info = self._info(name)
        values = read_float(info, begin, end)
        if not np.isfinite(values).all():
            at = int(np.argmin(np.isfinite(values).reshape(-1)))
            what = "NaN" if np.isnan(values.reshape(-1)[at]) else "infinity"
            raise UserError(f"{info.file}: tensor {name} holds {what} (first at element {at}); the weights are damaged")
        return values

    def tokenizer_files(self) -> list[Path]:
        """tokenizer.json and tokenizer_config.json where the folder has them."""
        return [self.folder / name for name in TOKENIZER_FILES if (self.folder / name).is_file()]


def _read_shards(root: Path) -> dict[str, TensorInfo]:
    index = root / INDEX
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise UserError(f"{index}: no weight_map of tensor names to file names")
    tensors: dict[str, TensorInfo] = {}
    for file in sorted(set(weight_map.values())):
        path = root / file
        if Path(file).name != file:
            raise UserError(f"{index}: the shard name {file!r} must be a plain file name")
        if not path.is_file():
            tensor = next(name for name, where in weight_map.items() if where == file)
            raise UserError(f"{index}: shard {file} (with tensor {tensor}) is missing from {root}")
        for name, info in read_header(path).items():
            if name in tensors:
                raise UserError(f"{path}: tensor {name} is also in {tensors[name].file.name}; it must be in one shard")
            if name not in weight_map:
                raise UserError(f"{path}: tensor {name} is not listed in {INDEX}")
            tensors[name] = info
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].file.name != file:
            raise UserError(f"{index}: tensor {name} is not in shard {file}, where the index puts it")
    return {name: tensors[name] for name in sorted(tensors)}
