"""The Python face of a compiled model: numpy arrays in, numpy arrays out, nothing but numpy imported."""

from __future__ import annotations

import ctypes as C
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ContextFullError, InputError, error_for
from .library import (
    GenerateOptions,
    GenerateStats,
    ModelInfo,
    ModelOptions,
    ProgramInfo,
    SessionOptions,
    TokenCallback,
    load_library,
)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy; top_k 0 and top_p 1 are off; filters apply in this order."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Stats:
    """Counts and times of one generation. drafted/accepted: per draft depth; steps: runs of the trunk after the prompt."""

    prompt_tokens: int
    new_tokens: int
    steps: int
    drafted: tuple[int, ...]
    accepted: tuple[int, ...]
    prefill_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Result:
    """Generated token ids (a stop token included) and statistics."""

    tokens: list[int]
    stats: Stats = field(repr=False)


class Model:
    """An artifact opened for inference. Sessions may run on different threads at once, each on one thread."""

    def __init__(self, path: str | PathLike[str], threads: int | None = None, verify: bool = True):
        """Open `path`. threads: workers per session (None: all cores). verify: check every file's checksum.

        Raises:
            ArtifactError: missing, corrupt, or of another format version. InputError: a bad thread count.
        """
        self.path = Path(path)
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}; give 1 or more")
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._library = load_library(self.path)
        options = ModelOptions(threads or 0, 0 if verify else 1)
        handle = C.c_void_p()
        self._handle: C.c_void_p | None = None
        self.check(self._library.pangu_model_open(os.fsencode(self.path), C.byref(options), C.byref(handle)))
        self._handle = handle
        info = ModelInfo()
        self.check(self._library.pangu_model_info(handle, C.byref(info)))
        self.vocab_size, self.hidden_size = int(info.vocab_size), int(info.hidden_size)
        self.max_context, self.max_chunk = int(info.max_context), int(info.max_chunk)
        self.num_drafts, self.threads = int(info.num_drafts), int(info.threads)

    def check(self, status: int) -> None:
        """Raise the runtime's error for a status other than 0."""
        if status != 0:
            raise error_for(status, self._library.pangu_last_error().decode("utf-8", "replace"))

    @property
    def handle(self) -> C.c_void_p:
        if self._handle is None:
            raise InputError("the model is closed")
        return self._handle

    def session(self, max_context: int | None = None, speculate: bool = True) -> Session:
        """A new sequence. max_context: at most what the artifact was built for (None: that). speculate: keep MTP states."""
        return Session(self, max_context, speculate)

    def run_program(
        self, name: str, dims: Sequence[int], inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray],
        states: Sequence[np.ndarray] = (),
    ) -> None:  # fmt: skip
        """Run a program on raw C-contiguous arrays; outputs and states are written in place.

        Shapes and dtypes are the caller's to get right.

        Raises:
            InputError: no such program, another number of arrays than it takes, or one that is not contiguous.
        """
        info = ProgramInfo()
        self.check(self._library.pangu_program_info(self.handle, name.encode(), C.byref(info)))
        given = (len(dims), len(inputs), len(outputs), len(states))
        takes = (info.n_dims, info.n_in, info.n_out, info.n_states)
        if given[:3] != takes[:3] or given[3] not in (0, takes[3]):
            raise InputError(f"program {name} takes (dims, inputs, outputs, states) {takes}, got {given}")
        sizes = np.asarray(dims if len(dims) else [0], np.int64)
        tables = []
        for arrays in (inputs, outputs, states):
            if any(not a.flags.c_contiguous for a in arrays):
                raise InputError("run_program takes C-contiguous arrays")
            tables.append((C.c_void_p * max(1, len(arrays)))(*[a.ctypes.data for a in arrays]))
        self.check(self._library.pangu_run_program(self.handle, name.encode(), sizes.ctypes.data, *tables))

    def close(self) -> None:
        """Release the model, and its sessions that are still open."""
        for session in list(self._sessions):
            session.close()
        if self._handle is not None:
            self._library.pangu_model_close(self._handle)
            self._handle = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Session:
    """One sequence of tokens and its states."""

    def __init__(self, model: Model, max_context: int | None, speculate: bool):
        self.model, self._library = model, model._library
        if max_context is not None and max_context < 1:
            raise InputError(f"max_context is {max_context}; give 1 or more")
        options = SessionOptions(max_context or 0, int(speculate))
        handle = C.c_void_p()
        self._handle: C.c_void_p | None = None
        model.check(self._library.pangu_session_open(model.handle, C.byref(options), C.byref(handle)))
        self._handle = handle
        model._sessions.add(self)

    @property
    def handle(self) -> C.c_void_p:
        if self._handle is None:
            raise InputError("the session is closed")
        return self._handle

    @property
    def length(self) -> int:
        """Tokens that the states hold."""
        return int(self._library.pangu_session_length(self.handle))

    def prefill(self, tokens: Iterable[int], all_logits: bool = False, chunk: int | None = None) -> Floats:
        """Append tokens; float32 [vocab] of the last one, or [n, vocab] of all.

        Raises:
            InputError: no tokens, or one outside the vocabulary. ContextFullError: no room. Both change nothing.
        """
        ids = token_array(tokens)
        if chunk is not None and chunk < 1:
            raise InputError(f"chunk is {chunk}; give 1 or more")
        shape = (len(ids), self.model.vocab_size) if all_logits else (self.model.vocab_size,)
        logits = np.empty(shape, np.float32)
        self.model.check(
            self._library.pangu_prefill(self.handle, ids.ctypes.data, len(ids), chunk or 0, int(all_logits), logits.ctypes.data)
        )
        return logits

    def decode(self, token: int) -> Floats:
        """Append one token; float32 [vocab]."""
        logits = np.empty(self.model.vocab_size, np.float32)
        (token,) = token_array([token])
        self.model.check(self._library.pangu_decode(self.handle, int(token), logits.ctypes.data))
        return logits

    def generate(
        self, tokens: Iterable[int], max_new_tokens: int = 128, sampling: Sampling | None = None, speculate: bool = True,
        stop_tokens: Iterable[int] = (), on_token: Callable[[int], object] | None = None, drafts: int | None = None,
    ) -> Result:  # fmt: skip
        """Append `tokens`, then generate. The tokens do not depend on `speculate` and `drafts` when greedy; nor does their
        distribution when sampling. on_token sees each final token and ends the generation by returning False.

        drafts: at most that many in a step. None: greedy generation on a CPU makes as many as turn out to be fastest; all
        other generation as many as the model has heads, so that a seed gives the same tokens again.

        The last generated token is not yet in the session: pass it with the next call's tokens.

        Raises:
            InputError, ContextFullError (its `tokens` hold what was generated until then).
        """
        ids, stops = token_array(tokens), token_array(stop_tokens)
        if max_new_tokens < 0:
            raise InputError(f"max_new_tokens is {max_new_tokens}; give 0 or more")
        if drafts is not None and not 1 <= drafts <= self.model.num_drafts:
            heads = f"give 1 to {self.model.num_drafts}" if self.model.num_drafts else "this model has no draft heads"
            raise InputError(f"drafts is {drafts}; {heads}")
        s = sampling or Sampling()
        options = GenerateOptions(
            max_new_tokens, s.temperature, s.top_k, s.top_p, s.seed & (2**64 - 1), int(speculate),
            stops.ctypes.data_as(C.POINTER(C.c_int64)), len(stops), drafts or 0,
        )  # fmt: skip
        collected: list[int] = []
        raised: list[BaseException] = []

        def receive(token: int, user: object) -> int:
            collected.append(int(token))
            try:
                return 1 if on_token is not None and on_token(int(token)) is False else 0
            except BaseException as error:  # it must not cross C; it is raised again below
                raised.append(error)
                return 1

        stats = GenerateStats()
        status = self._library.pangu_generate(
            self.handle,
            ids.ctypes.data,
            len(ids),
            C.byref(options),
            TokenCallback(receive),
            None,
            C.byref(stats),
            None,
            None,
        )
        if raised:
            raise raised[0]
        try:
            self.model.check(status)
        except ContextFullError as error:
            error.tokens = collected
            raise
        depth = self.model.num_drafts
        record = Stats(
            int(stats.prompt_tokens), int(stats.new_tokens), int(stats.steps), tuple(stats.drafted[:depth]),
            tuple(stats.accepted[:depth]), float(stats.prefill_seconds), float(stats.decode_seconds),
        )  # fmt: skip
        return Result(collected, record)

    def save(self) -> bytes:
        """The session as bytes, for `restore` on a session of the same artifact."""
        size = C.c_size_t()
        self.model.check(self._library.pangu_session_save(self.handle, None, C.byref(size)))
        buffer = C.create_string_buffer(size.value)
        self.model.check(self._library.pangu_session_save(self.handle, buffer, C.byref(size)))
        return buffer.raw[: size.value]

    def restore(self, data: bytes) -> None:
        """Continue where `save` was taken. InputError where the bytes are not of this artifact; nothing changes then."""
        self.model.check(self._library.pangu_session_restore(self.handle, data, len(data)))

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens. A few tokens back costs nothing; further back they are computed again."""
        self.model.check(self._library.pangu_session_truncate(self.handle, length))

    def reset(self) -> None:
        """Forget every token."""
        self.model.check(self._library.pangu_session_reset(self.handle))

    def close(self) -> None:
        if self._handle is not None:
            self._library.pangu_session_close(self._handle)
            self._handle = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()


def token_array(tokens: Iterable[int]) -> npt.NDArray[np.int64]:
    """int64 array of token ids. InputError where something is not an integer."""
    values: Any = list(tokens) if not isinstance(tokens, np.ndarray) else tokens
    array = np.asarray(values if len(values) else [], dtype=None if len(values) else np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"tokens must be a flat sequence of integers, got {array.dtype} of shape {array.shape}")
    return np.ascontiguousarray(array, np.int64)


def stats_record(stats: Stats) -> Mapping[str, Any]:
    """JSON-ready form, with acceptance rates."""
    seconds = stats.decode_seconds
    return {
        "prompt_tokens": stats.prompt_tokens, "new_tokens": stats.new_tokens, "steps": stats.steps,
        "drafted": list(stats.drafted), "accepted": list(stats.accepted),
        "acceptance": [a / d if d else None for a, d in zip(stats.accepted, stats.drafted, strict=True)],
        "prefill_seconds": stats.prefill_seconds, "decode_seconds": seconds,
        "tokens_per_second": (stats.new_tokens - 1) / seconds if seconds > 0 and stats.new_tokens > 1 else None,
    }  # fmt: skip
