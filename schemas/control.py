"""How a member's server is started, stopped and kept from starting: one kind a transport."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from schemas.base import Declared


class CommandControl(Declared):
    """Node control by commands that run where the worker runs: systemctl, pg_ctlcluster, supervisorctl …

    Each is an argument vector, never a shell line, and must return 0 once its effect is complete.
    """

    kind: Literal["command"] = "command"
    start: list[str] = Field(min_length=1)
    stop: list[str] = Field(min_length=1)
    autostart_on: list[str] | None = None
    autostart_off: list[str] | None = None
    timeout_s: PositiveFloat = 10.0
