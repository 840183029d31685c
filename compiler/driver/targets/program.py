"""Runs artifacts that are a Python program, through the interface of the compiled runtime's Model and Session."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from pangu_compile.errors import UserError
from pangu_compile.runtime import Result, Sampling, Stats

MODULES = ("pangu_blocks", "pangu_operators", "pangu_session", "npu_reference")


def load_program(path: Path) -> ModuleType:
    """The artifact's src/model.py as a module of its own. UserError where it cannot be imported (no torch, a damaged file)."""
    source = path / "src"
    earlier = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    sys.path.insert(0, str(source))
    try:
        spec = importlib.util.spec_from_file_location("pangu_torch_npu_model", source / "model.py")
        if spec is None or spec.loader is None:
            raise UserError(f"{source / 'model.py'}: cannot be imported")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{source / 'model.py'}: cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(source))
        for name in MODULES:  # another artifact has files of the same names
            sys.modules.pop(name, None)
        sys.modules.update(earlier)
    return module


class ProgramSession:
    """One sequence of a program; like the runtime's Session."""

    def __init__(self, session: Any, make_sampling: Callable[..., Any]):
        self._session, self._make_sampling = session, make_sampling

    def __enter__(self) -> ProgramSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def prefill(self, tokens: Sequence[int], all_logits: bool = False) -> np.ndarray:
        """float32 [vocab], or [len(tokens), vocab]."""
        try:
            logits: np.ndarray = self._session.prefill(list(tokens), all_logits).cpu().numpy()
        except ValueError as error:
            raise UserError(str(error)) from error
        return logits

    def decode(self, token: int) -> np.ndarray:
        return self.prefill([token])

    def generate(
        self, prompt: Sequence[int], max_new_tokens: int = 128, sampling: Sampling | None = None, speculate: bool = True,
        stop_tokens: Sequence[int] = (), on_token: Callable[[int], Any] | None = None, drafts: int | None = None,
    ) -> Result:  # fmt: skip
        """Generate; `on_token` gets every token as it comes. UserError where the context or the vocabulary is exceeded, or
        `drafts` (at most that many in a step; None: one a head) is more than there are heads."""
        s = sampling or Sampling()
        tokens: list[int] = []
        settings = self._make_sampling(temperature=s.temperature, top_p=s.top_p, top_k=s.top_k, seed=s.seed)
        try:
            for token in self._session.generate(list(prompt), max_new_tokens, settings, speculate, stop_tokens, drafts):
                tokens.append(token)
                if on_token is not None:
                    on_token(token)
        except ValueError as error:
            raise UserError(str(error)) from error
        values = dict(self._session.stats.__dict__)
        return Result(tokens, Stats(**{**values, "drafted": tuple(values["drafted"]), "accepted": tuple(values["accepted"])}))


class ProgramModel:
    """A loaded program. `simulated`: there is no torch_npu, so the operators are CPU reference implementations."""

    simulated_note = "simulated: the vendor's operators ran as CPU reference implementations"

    def __init__(self, path: str | Path, threads: int | None = None):
        self.program = load_program(Path(path))
        self.simulated = bool(self.program.SIMULATED)
        if threads is not None and self.simulated:
            self._globals["torch"].set_num_threads(threads)

    @property
    def _globals(self) -> dict[str, Any]:
        """Names of the artifact's own pangu_session, whichever other artifact is loaded beside it."""
        return dict(self.program.main.__globals__)

    @property
    def num_drafts(self) -> int:
        return int(self.program.DESCRIPTION.num_drafts)

    def __enter__(self) -> ProgramModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def session(self, max_context: int | None = None, speculate: bool = True) -> ProgramSession:
        opened = self._globals["open_session"](self.program.DESCRIPTION, max_context, speculate)
        return ProgramSession(opened, self._globals["Sampling"])
