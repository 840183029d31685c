"""What later builds can use again: entries of the cache folder, each under a name that says everything which decides its bytes.

So none ever goes stale. A cache that cannot be read or written, or an entry that is damaged, costs the time of making it again and
nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile

from .options import cache_folder

DIGEST = hashlib.sha256().digest_size  # an entry is the sum of its data, and the data


def read_entry(kind: str, key: str) -> bytes | None:
    """The data of entry `key` in the folder `kind`; None where there is none that is whole."""
    try:
        entry = (cache_folder() / kind / key).read_bytes()
    except OSError:
        return None
    data = entry[DIGEST:]
    return data if hashlib.sha256(data).digest() == entry[:DIGEST] else None


def write_entry(kind: str, key: str, data: bytes) -> None:
    """Put an entry into the cache, whole or not at all."""
    folder = cache_folder() / kind
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".new-")
        try:
            with open(handle, "wb") as stream:
                stream.write(hashlib.sha256(data).digest() + data)
            os.replace(name, folder / key)
        except BaseException:
            os.unlink(name)
            raise
