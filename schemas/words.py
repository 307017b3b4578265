"""How durations and times read, in every view."""

from __future__ import annotations

from datetime import UTC, datetime


def span(seconds: float | None) -> str:
    """`0.72 s`, `12.3 s`, `4 min 05 s`, `2 h 03 min`; `not known` where it isn't."""
    if seconds is None:
        return "not known"
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def moment(at: datetime | None) -> str:
    """`2026-11-24 20:05:01 UTC`; `-` for none."""
    return "-" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def instant(at: datetime) -> str:
    """`2026-11-24 20:05:01.123`, in UTC, where milliseconds count."""
    return f"{at.astimezone(UTC):%Y-%m-%d} {hour(at)}"


def hour(at: datetime) -> str:
    """`20:05:01.123`, of a moment whose day is plain."""
    return f"{at.astimezone(UTC):%H:%M:%S.%f}"[:-3]
