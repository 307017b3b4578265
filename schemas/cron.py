"""Times of a schedule as cron has them: `minute hour day-of-month month day-of-week`, in UTC."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _DAYS),
)
_PART = re.compile(r"(?:\*|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?")


def checked_cron(text: str) -> str:
    """The same with single spaces; ValueError names the field that is none."""
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(
            f"{text!r} has {len(fields)} fields; cron has five (minute, hour, day of month, month, day of week), for"
            " instance `0 3 * * *`; or give seconds"
        )
    for field, (name, least, most, words) in zip(fields, _FIELDS, strict=True):
        for part in field.split(","):
            if not _fits(part, least, most, words):
                raise ValueError(f"{part!r} is no {name} of cron: {least} to {most}, `*`, a range, or one with a step")
    return " ".join(fields)


def _fits(part: str, least: int, most: int, words: tuple[str, ...]) -> bool:
    match = _PART.fullmatch(part)
    if match is None or match["step"] == "0":
        return False
    ends = [_number(match[end], least, words) for end in ("first", "last") if match[end] is not None]
    return all(each is not None and least <= each <= most for each in ends) and ends == sorted(
        ends, key=lambda e: e or 0
    )


def _number(text: str, least: int, words: tuple[str, ...]) -> int | None:
    if text.lower() in words:
        return words.index(text.lower()) + (least if words is _MONTHS else 0)
    return int(text) if text.isdecimal() else None


CronText = Annotated[str, AfterValidator(checked_cron)]
