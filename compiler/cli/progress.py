"""Progress on stderr: rich bars on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """A bar for every stage. Use as a context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = TextColumn("{task.description:<12}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")
        self._bars = Progress(*columns, TimeElapsedColumn(), console=console, disable=not sys.stderr.isatty())
        self._task: TaskID | None = None

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def stage(self, name: str, total: int) -> None:
        self._task = self._bars.add_task(name, total=max(total, 1))

    def advance(self, steps: int) -> None:
        if self._task is not None:
            self._bars.advance(self._task, steps)
