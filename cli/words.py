"""How durations, times and outcomes read, in every view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from schemas.words import hour, instant, moment, of_total, size, span

__all__ = [
    "MARKS",
    "OUTCOME_STYLES",
    "hour",
    "instant",
    "left_style",
    "moment",
    "outcome_text",
    "progress_text",
    "span",
]

MARKS = {
    "done": ("✓", "green"),
    "failed": ("✗", "red"),
    "skipped": ("–", "yellow"),
    "undone": ("↺", "yellow"),
    "undo failed": ("✗", "red"),
    "planned": ("·", "cyan"),
}
"""Outcome of a step → its mark and colour."""

OUTCOME_STYLES = {
    "recovered": "bold green",
    "recovered, unprotected": "bold yellow",
    "done": "bold green",
    "done, unprotected": "bold yellow",
    "not needed": "bold green",
    "planned": "bold cyan",
    "needs a person": "bold red",
}
"""What isn't named here was compensated: the estate is as it was."""


def outcome_text(outcome: str) -> Text:
    return Text(outcome, style=OUTCOME_STYLES.get(outcome, "bold yellow"))


def progress_text(details: object) -> str:
    """A heartbeat as a person reads it: `restoring 20261125-100000F: 1.20 of 3.40 GB, 35 %, 120 MB/s, 18.3 s left`."""
    if isinstance(details, str):
        return details
    if not isinstance(details, dict):
        return ""
    parts = [*_measures(details)]
    log = str(details.get("log") or "")
    # The line that the numbers were read from says nothing more.
    if log and not details.get("of") and str(details.get("file") or "\n") not in log:
        parts.append(log)
    if details.get("why"):
        parts.append(str(details["why"]))
    parts += [f"{name} {number} bytes behind" for name, number in (details.get("bytes behind") or {}).items()]
    return ": ".join(part for part in (str(details.get("doing") or ""), ", ".join(parts)) if part)


def _measures(details: Mapping[str, Any]) -> Iterator[str]:
    """How much of how much, how fast, how long it still takes; WAL by its files."""
    if total := details.get("of"):
        done = details.get("rows" if "rows" in details else "bytes") or 0
        yield f"{done:,} of {total:,} rows" if "rows" in details else of_total(done, total)
        # Tables grow while they are read, and the total is an estimate.
        yield f"{min(100 * done / total, 100):.0f} %"
    if details.get("rate"):
        yield f"{size(details['rate'])}/s"
    if details.get("left_s") is not None:
        yield f"{span(details['left_s'])} left"
    if details.get("file"):
        yield f"WAL file {details['file']}" + (f" of {details['to']}" if details.get("to") else "")
    if details.get("files"):
        yield f"{details['files']} fetched"


def left_style(left_s: float, whole_s: float) -> str:
    """Green, yellow once half of the RTO is spent, red at 80 %."""
    spent = 1.0 if whole_s <= 0 else 1 - left_s / whole_s
    return "bold red" if spent >= 0.8 else "yellow" if spent >= 0.5 else "green"
