"""The fault matrix's cells: an activity of a procedure, before or after its effect, and who is killed there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pytest

Cell = tuple[str, str, str]
"""Activity; `before` or `after`; `kill` (a worker) or `pid` (Temporal)."""

WHO = {"kill": "worker", "pid": "temporal"}


def cells(activities: Sequence[str], sample: Collection[Cell], campaign: Collection[Cell] = ()) -> list[Any]:
    """Every cell of these activities, for `parametrize`: `make test` has the sample, `make campaign` (of which CI has
    a third, by turns) the campaign's, and `make matrix` alone the others.
    """
    found = [(activity, when, who) for activity in activities for when in ("before", "after") for who in WHO]
    unknown = {*sample, *campaign} - set(found)
    assert not unknown, f"no such cells: {sorted(unknown)}"

    def marks(cell: Cell) -> list[pytest.MarkDecorator]:
        if cell in sample:
            return []
        return [pytest.mark.campaign if cell in campaign else pytest.mark.matrix]

    return [pytest.param(*cell, marks=marks(cell), id="-".join((*cell[:2], WHO[cell[2]]))) for cell in found]
