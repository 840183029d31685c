"""The corpus: the King James Bible as Debian ships it (package bible-kjv, text in the public domain)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import torch

from pangu_compile.errors import UserError

HELD_OUT_BOOK = "1Sm"
VERSE = re.compile(r"^(\d?[A-Za-z]+)(\d+):(\d+) (.*)$")


def _bible_output(cache: Path) -> str:
    """The output of `bible` for the whole text; the program is unpacked into `cache` when it is not installed."""
    program = shutil.which("bible")
    command = [program] if program else None
    if command is None:
        root = cache / "bible-kjv"
        if not (root / "usr/bin/bible").exists():
            _download(cache, root)
        command = [str(root / "usr/bin/bible"), "-p", str(root / "usr/lib")]
    try:
        done = subprocess.run([*command, "-f", "Gen1:1-Rev22:21"], stdin=subprocess.DEVNULL, capture_output=True,
                              check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise UserError(f"corpus: cannot run {command[0]}: {exc}; install the Debian package bible-kjv") from exc
    return done.stdout.decode("utf-8", "replace")


def _download(cache: Path, root: Path) -> None:
    """Fetches the two Debian packages with apt-get and unpacks them under `root` (no root rights needed)."""
    cache.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", "bible-kjv", "bible-kjv-text"], cwd=cache, check=True,
                       capture_output=True)
        for package in sorted(cache.glob("bible-kjv*.deb")):
            subprocess.run(["dpkg", "-x", package.name, str(root)], cwd=cache, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise UserError("corpus: the Debian package bible-kjv is neither installed nor downloadable with apt-get; "
                        "run `apt-get install bible-kjv` or train on a Debian machine") from exc


def load_corpus(cache: Path) -> tuple[str, str]:
    """(training text, held-out text): one verse per line, an empty line between chapters; 1 Samuel is held out.

    Raises UserError if the text cannot be had or does not look like the King James Bible.
    """
    parts: dict[bool, list[str]] = {False: [], True: []}
    chapter = ("", "")
    for line in _bible_output(cache).splitlines():
        found = VERSE.match(line)
        if not found:
            continue
        book, number, _, text = found.groups()
        lines = parts[book == HELD_OUT_BOOK]
        if (book, number) != chapter and lines:
            lines.append("")
        chapter = (book, number)
        lines.append(" ".join(text.split()))
    train, held = ("\n".join(parts[key]) + "\n" for key in (False, True))
    if len(train) < 3_500_000 or len(held) < 100_000:
        raise UserError(f"corpus: `bible` printed {len(train)} + {len(held)} characters, expected about 4 million; "
                        "install the Debian package bible-kjv")
    return train, held


class Batches:
    """Random training windows. Every window is [bos, text...]; half of them start at the start of a verse."""

    def __init__(self, ids: torch.Tensor, newline: int, bos: int, seed: int) -> None:
        self.ids, self.bos = ids, bos
        self.starts = (ids == newline).nonzero().flatten() + 1
        self.generator = torch.Generator().manual_seed(seed)

    def next(self, batch: int, length: int) -> torch.Tensor:
        """[batch, length] int64 token ids."""
        last = len(self.ids) - length
        anywhere = torch.randint(0, last, (batch,), generator=self.generator)
        verses = self.starts[torch.randint(0, len(self.starts), (batch,), generator=self.generator)].clamp(max=last)
        start = torch.where(torch.arange(batch) % 2 == 0, verses, anywhere)
        rows = self.ids[start[:, None] + torch.arange(length - 1)[None]]
        return torch.cat([torch.full((batch, 1), self.bos), rows], dim=1)
