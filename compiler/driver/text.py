"""Text in and out of an artifact: prompts to token ids, and generated ids to text as they come."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pangu_compile.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

INCOMPLETE = "\ufffd"  # a byte-level tokenizer decodes half of a character to this


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of an artifact.

    Raises:
        UserError: there is none, it is damaged, or the tokenizers package is not installed.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{folder} has no tokenizer.json (its checkpoint had none); give token ids with --tokens")
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise UserError("text needs the tokenizers package: pip install tokenizers, or give --tokens") from error
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises plain Exception
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def encode(folder: Path, tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a prompt; a leading token that tokenizer_config.json asks for is put before it."""
    ids = list(tokenizer.encode(text).ids)
    config = folder / "tokenizer_config.json"
    if config.is_file():
        try:
            settings = json.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            settings = {}
        first = settings.get("bos_token") if isinstance(settings, dict) and settings.get("add_bos_token") else None
        name = first.get("content") if isinstance(first, dict) else first
        number = tokenizer.token_to_id(name) if isinstance(name, str) else None
        if number is not None and ids[:1] != [number]:
            ids.insert(0, number)
    return ids


def read_prompt(path: str) -> str:
    """The text of a prompt file. UserError where it cannot be read, or is not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start})") from error


class TextStream:
    """Turns generated ids into text piece by piece; a character is held back until all of its bytes are there."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._prefix = 0  # ids before this one are printed and only give context
        self._done = 0

    def push(self, token: int) -> str:
        """Text that becomes certain with `token`; may be empty."""
        self._ids.append(token)
        before = self._decode(self._ids[self._prefix : self._done])
        now = self._decode(self._ids[self._prefix :])
        if len(now) <= len(before) or now.endswith(INCOMPLETE):
            return ""
        self._prefix, self._done = self._done, len(self._ids)
        return now[len(before) :]

    def finish(self) -> str:
        """What was held back."""
        before = self._decode(self._ids[self._prefix : self._done])
        return self._decode(self._ids[self._prefix :])[len(before) :]

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids))
        return text


def parse_tokens(text: str) -> list[int]:
    """Token ids written as 1,2,3. UserError names the part that is not a number."""
    tokens = []
    for part in text.split(","):
        try:
            tokens.append(int(part))
        except ValueError as error:
            raise UserError(f"--tokens: {part.strip()!r} is not a token id; write them as 1,2,3") from error
    return tokens
