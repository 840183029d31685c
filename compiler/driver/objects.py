"""Kept object files of sources that every artifact has: the runtime core is compiled once for each compiler and its flags."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from .cache import read_entry, write_entry

KIND = "objects"


def compiler_identity(command: Sequence[str], flags: Sequence[str]) -> str | None:
    """What the compiler says of itself: its version, its folders of headers, and what it makes of the flags, as -march=native
    is another set on every machine. None where it does not say.
    """
    args = [*command, *flags, "-v", "-E", "-x", "c++", os.devnull]
    try:
        done = subprocess.run(args, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stderr if done.returncode == 0 and done.stderr else None


def object_key(command: Sequence[str], flags: Sequence[str], root: Path, files: Iterable[str]) -> str | None:
    """Name of an entry: the compiler, its flags, and names and bytes of the source and every header of ours that it reads.

    Args:
        command, flags: without paths of this build.
        files: relative to `root`, the source first.
    Returns:
        None: what is to be compiled cannot be known for sure.
    """
    identity = compiler_identity(command, flags)
    if identity is None:
        return None
    digest = hashlib.sha256("\0".join([*command, *flags, identity]).encode())
    try:
        for name in files:
            data = (root / name).read_bytes()
            digest.update(f"\0{name}\0{len(data)}\0".encode() + data)
    except OSError:
        return None
    return digest.hexdigest()[:40]


def fetch(key: str, target: Path) -> bool:
    """Write the kept object file to `target`; False where there is none that is whole."""
    data = read_entry(KIND, key)
    if data is None:
        return False
    target.write_bytes(data)
    return True


def keep(key: str, made: Path) -> None:
    """Put an object file into the cache."""
    with contextlib.suppress(OSError):
        write_entry(KIND, key, made.read_bytes())
