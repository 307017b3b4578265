"""How durations, times and outcomes read, in every view."""

from __future__ import annotations

from rich.text import Text

from schemas.words import hour, instant, moment, span

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
    """A heartbeat as a person reads it: `rebuild of pg-east-1: 1.20 of 3.40 GB, 20 s left`."""
    if isinstance(details, str):
        return details
    if not isinstance(details, dict):
        return ""
    parts = [str(details.get("doing", ""))]
    if details.get("of"):
        parts.append(f"{details.get('bytes', 0) / 1e9:.2f} of {details['of'] / 1e9:.2f} GB")
        if details.get("left_s") is not None:
            parts.append(f"{span(details['left_s'])} left")
    parts += [str(details[key]) for key in ("log", "why") if details.get(key)]
    parts += [f"{name} {number} bytes behind" for name, number in (details.get("bytes behind") or {}).items()]
    return ", ".join(part for part in parts if part)


def left_style(left_s: float, whole_s: float) -> str:
    """Green, yellow once half of the RTO is spent, red at 80 %."""
    spent = 1.0 if whole_s <= 0 else 1 - left_s / whole_s
    return "bold red" if spent >= 0.8 else "yellow" if spent >= 0.5 else "green"
