"""A cache of object files whose sources every artifact has: the runtime core is compiled once for each compiler and its flags.

An entry is named by everything that decides its bytes, so none ever goes stale. A cache that cannot be read or written, or an
entry that is damaged, costs the time of compiling and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from .options import cache_folder

DIGEST = hashlib.sha256().digest_size  # an entry is the sum of the object file, and the object file


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
    try:
        entry = (cache_folder() / "objects" / key).read_bytes()
    except OSError:
        return False
    data = entry[DIGEST:]
    if hashlib.sha256(data).digest() != entry[:DIGEST]:
        return False
    target.write_bytes(data)
    return True


def keep(key: str, made: Path) -> None:
    """Put an object file into the cache, whole or not at all."""
    folder = cache_folder() / "objects"
    with contextlib.suppress(OSError):
        data = made.read_bytes()
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".new-")
        try:
            with open(handle, "wb") as stream:
                stream.write(hashlib.sha256(data).digest() + data)
            os.replace(name, folder / key)
        except BaseException:
            os.unlink(name)
            raise
