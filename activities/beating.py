"""Heartbeats of activities that wait for one slow thing: without them a worker's death is noticed at the time limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from temporalio import activity

EVERY_S = 1.0


@contextlib.asynccontextmanager
async def beating(doing: str | Mapping[str, object]) -> AsyncIterator[None]:
    """Heartbeat once a second, with what is being done by then, for as long as the block takes."""

    async def beat() -> None:
        while True:
            activity.heartbeat(doing if isinstance(doing, str) else dict(doing))
            await asyncio.sleep(EVERY_S)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
