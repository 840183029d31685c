"""What the agreement benchmarks share: their options, a folder for every seed, random checkpoints, the file of records."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pangu_compile.models.config import OpenPanguConfig
from pangu_compile.models.random_checkpoint import SMALL, TINY, random_config, write_random_checkpoint

SIZES = {"small": SMALL, "tiny": TINY}


def parser(description: str | None, seeds: int, weights: Sequence[str]) -> argparse.ArgumentParser:
    """The common options; weights: the formats there are, the first by default."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--sizes", default="tiny", choices=tuple(SIZES))
    found.add_argument("--seeds", type=int, default=seeds)
    found.add_argument("--first", type=int, default=0)
    found.add_argument("--weights", default=weights[0], choices=tuple(weights))
    found.add_argument("--activations", default="float32", choices=("float32", "bf16"))
    found.add_argument("--tokens", type=int, default=70)
    found.add_argument("--generate", type=int, default=24)
    found.add_argument("--json", type=Path)
    return found


def seeds_and_folders(options: argparse.Namespace) -> Iterator[tuple[int, Path]]:
    """Every seed with a folder of its own, which is removed after it. torch computes on one thread."""
    torch.set_num_threads(1)
    for seed in range(options.first, options.first + options.seeds):
        with tempfile.TemporaryDirectory(prefix="pangu-agreement-", ignore_cleanup_errors=True) as folder:
            yield seed, Path(folder)


def random_checkpoint(seed: int, folder: Path, sizes: str, positions: int) -> tuple[OpenPanguConfig, Path]:
    """The seed's configuration, for so many positions, and its checkpoint, written below `folder`."""
    config = dataclasses.replace(random_config(seed, SIZES[sizes]), max_position_embeddings=positions)
    return config, write_random_checkpoint(folder / "checkpoint", config, seed=seed)


def save(records: list[dict[str, Any]], options: argparse.Namespace) -> None:
    if options.json:
        options.json.write_text(json.dumps(records, indent=1) + "\n")
