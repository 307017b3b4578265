"""Running a program to its end, from a coroutine that may be cancelled meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lab.errors import LabError
from lab.owner import as_server


async def run(argv: Sequence[str], *, cwd: Path, env: dict[str, str], server: bool = False, limit: float = 60.0) -> str:
    """What a program prints, run as the servers' user with `server`; LabError with its last words when it fails.

    It never outlives the call: after `limit` seconds, or when the caller is cancelled, its whole group is killed.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=cwd,
        env=env,
        start_new_session=True,
        **(as_server() if server else {}),
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), limit)
    except TimeoutError as error:
        raise LabError(f"{argv[0]} has not ended within {limit:.0f} s") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    said = output.decode(errors="replace")
    if process.returncode != 0:
        raise LabError(f"{argv[0]} exited {process.returncode}: {said.strip()[-1000:]}")
    return said
