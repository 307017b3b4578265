"""Progress of long work, on stderr: lines, and on a terminal a spinner beside the last one."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.status import Status


class Steps:
    """A context; calling it tells what begins now."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 160)
        self._started = time.monotonic()
        self._status: Status | None = None

    def __enter__(self) -> Steps:
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, text: str) -> None:
        self._console.print(
            f"{time.monotonic() - self._started:6.1f} s  {text}", markup=False, highlight=False, soft_wrap=True
        )
        if self._status is not None:
            self._status.update(text)
