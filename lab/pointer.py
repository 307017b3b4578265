"""Which lab a command means: an explicit one, LIFEBOAT_LAB, or the current one that the last `lab up` left."""

from __future__ import annotations

import os
from pathlib import Path

from lab.errors import LabUnavailable
from lab.model import Lab

VARIABLE = "LIFEBOAT_LAB"


def pointer_file() -> Path:
    """In the user's state folder (XDG Base Directory specification)."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "lifeboat" / "lab"


def point_at(lab: Lab) -> None:
    """Make `lab` the current one."""
    file = pointer_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{lab.folder}\n", encoding="utf-8")


def forget(lab: Lab) -> None:
    """`lab` is no longer the current one, if it was."""
    file = pointer_file()
    try:
        if file.read_text(encoding="utf-8").strip() == str(lab.folder):
            file.unlink()
    except OSError:
        return


def current() -> Lab | None:
    """The lab of LIFEBOAT_LAB, else the current one; None when there is neither.

    A lab that is named and not there is an error, LabUnavailable; a current one that is gone is none.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return Lab.load(named)
    try:
        folder = pointer_file().read_text(encoding="utf-8").strip()
        return Lab.load(folder) if folder else None
    except (OSError, LabUnavailable):
        return None


def require(explicit: str | Path | None = None) -> Lab:
    """The lab that is meant; LabUnavailable says how to get one."""
    lab = Lab.load(explicit) if explicit else current()
    if lab is None:
        raise LabUnavailable
    return lab
