"""How durations, amounts and times read, in every view."""

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


UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def size(number: float) -> str:
    """`3.40 GB`, `524 MB`, `12 bytes`: three digits, in powers of ten."""
    for whole, name in UNITS:
        # Not `1000 MB`: what would round up to it is the next unit's.
        if number >= 0.9995 * whole:
            return f"{_digits(number / whole)} {name}"
    return f"{number:.0f} bytes"


def of_total(done: float, total: float) -> str:
    """`1.20 of 3.40 GB`, in the unit of the total."""
    whole, name = next((each for each in UNITS if total >= 0.9995 * each[0]), (1, "bytes"))
    if whole == 1:
        return f"{done:.0f} of {total:.0f} bytes"
    places = _places(total / whole)
    return f"{done / whole:.{places}f} of {total / whole:.{places}f} {name}"


def _digits(number: float) -> str:
    return f"{number:.{_places(number)}f}"


def _places(number: float) -> int:
    return 2 if number < 9.995 else 1 if number < 99.95 else 0


def moment(at: datetime | None) -> str:
    """`2026-11-24 20:05:01 UTC`; `-` for none."""
    return "-" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def instant(at: datetime) -> str:
    """`2026-11-24 20:05:01.123`, in UTC, where milliseconds count."""
    return f"{at.astimezone(UTC):%Y-%m-%d} {hour(at)}"


def hour(at: datetime) -> str:
    """`20:05:01.123`, of a moment whose day is plain."""
    return f"{at.astimezone(UTC):%H:%M:%S.%f}"[:-3]
