"""The ledger: what the load's clients were told, outside the estate, one JSON line a write, never rewritten.

Beside it stands when the load ran (`Span`), since a route is only out of order while somebody writes through it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from lab.errors import LabError

Outcome = Literal["acknowledged", "unknown", "failed"]


class Entry(BaseModel):
    """One write. Times are UTC, seconds since the epoch, by the client's clock.

    `acknowledged`: answered without a warning. `unknown`: sent, and either never answered or answered with WARNING
    01000, so it may be in the final state or not. `failed`: refused by the server, or never sent.
    `server` is the `host:port` that answered, by its own account, on `timeline`. Of a cache: that the client was
    connected to, writing the history `replid`, which began from `parent` (INFO replication); `waited` when WAIT
    counted enough replicas.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    route: str
    writer: str
    sent: float | None = None
    acked: float | None = None
    server: str = ""
    timeline: int = 0
    replid: str = ""
    parent: str = ""
    waited: bool = False
    outcome: Outcome
    error: str = ""


class Span(BaseModel):
    """The load ran from `started` to `stopped`; None: it runs still, or died without a word."""

    pid: int
    started: float
    stopped: float | None = None


class LedgerUnreadable(LabError):
    """The ledger can't be read, so nothing can be said of what clients saw; start the load, or look at the file."""


class Ledger:
    """Appends entries; each is one write() of a whole line, so that a killed load leaves no half of an older one."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def record(self, entry: Entry) -> None:
        os.write(self._fd, entry.model_dump_json(exclude_defaults=True).encode() + b"\n")

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(path: Path) -> list[Entry]:
    """Every entry; LedgerUnreadable when there is no ledger, or a line in it is no entry.

    A last line without its end is left out: its write was under way.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise LedgerUnreadable(f"{path}: {error.strerror}") from error
    whole = text[: text.rfind(b"\n") + 1]
    entries = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entries.append(Entry.model_validate_json(line))
        except ValidationError as error:
            raise LedgerUnreadable(f"line {number} of {path} is no entry") from error
    return entries


class Tail:
    """Follows a ledger that grows, reading each entry once; a ledger that isn't there yet is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def fresh(self) -> list[Entry]:
        """The entries since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        return [Entry.model_validate_json(line) for line in whole.splitlines()]


def _spans_of(ledger: Path) -> Path:
    return ledger.with_suffix(".spans.json")


_SPANS = TypeAdapter(list[Span])


def read_spans(ledger: Path) -> list[Span]:
    """When the load ran, oldest first; empty when it never did."""
    try:
        return _SPANS.validate_json(_spans_of(ledger).read_bytes())
    except FileNotFoundError:
        return []


def write_spans(ledger: Path, spans: list[Span]) -> None:
    path = _spans_of(ledger)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(_SPANS.dump_json(spans))
    fresh.replace(path)


def put_aside(ledger: Path) -> None:
    """Begin a new ledger: what the old one says no longer holds once the estate was put back to its beginnings."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for path in (ledger, _spans_of(ledger)):
        if path.exists():
            path.replace(path.with_name(f"{stamp}-{time.monotonic_ns() % 10**6:06d}-{path.name}"))
