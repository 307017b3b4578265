"""The fault matrix's cells: an activity of a procedure, before or after its effect, and who is killed there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pytest

Cell = tuple[str, str, str]
"""Activity; `before` or `after`; `kill` (a worker) or `pid` (Temporal)."""

WHO = {"kill": "worker", "pid": "temporal"}


def cells(activities: Sequence[str], sample: Collection[Cell], *marks: pytest.MarkDecorator) -> list[Any]:
    """Every cell of these activities, for `parametrize`: the `sample` has `marks`, all others are the matrix's."""
    found = [(activity, when, who) for activity in activities for when in ("before", "after") for who in WHO]
    unknown = set(sample) - set(found)
    assert not unknown, f"no such cells: {sorted(unknown)}"
    return [
        pytest.param(
            *cell, marks=list(marks) if cell in sample else pytest.mark.matrix, id="-".join((*cell[:2], WHO[cell[2]]))
        )
        for cell in found
    ]
