"""Waiting for a condition of other processes, which can only be asked again and again; always with a limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from lab.errors import LabError

T = TypeVar("T")


async def until(what: str, condition: Callable[[], Awaitable[T | None]], limit: float, every: float = 0.03) -> T:
    """The condition's first result that is true; LabError says `what` did not come within `limit` seconds."""
    end = time.monotonic() + limit
    while True:
        found = await condition()
        if found:
            return found
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {limit:.0f} s")
        await asyncio.sleep(every)
