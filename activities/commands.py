"""Commands that run where the worker runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile

from schemas.failures import NodeControlFailed

TIMED_OUT = 124
"""Exit code of a command that had not ended at its limit, as timeout(1) has it."""
KEPT = 24_000
"""Characters of a command's output, from its end, that are kept (what AWS Systems Manager keeps)."""
TOLD = 500
"""Of these, what is worth telling a person."""


async def run_command(argv: list[str], limit: float) -> tuple[int, str]:
    """Exit code and the end of what it printed; TIMED_OUT when it had to be ended after `limit` seconds.

    Into a file, not a pipe: servers and jobs that it leaves behind hold what they inherit (uvloop hands on its own end
    of a pipe, whatever they redirect), and a pipe's end would be waited for as long as they run.
    """
    with tempfile.TemporaryFile() as printed:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, stdout=printed, stderr=asyncio.subprocess.STDOUT
            )
        except OSError as error:
            raise NodeControlFailed(f"{argv[0]}: {error.strerror}") from error
        try:
            await asyncio.wait_for(process.wait(), limit)
        except TimeoutError:
            # What became another user (sudo) can't be ended from here, and is left behind.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                process.kill()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 1.0)
            return TIMED_OUT, f"no end within {limit:g} s"
        # Characters take up to four bytes.
        printed.seek(max(printed.seek(0, os.SEEK_END) - 4 * KEPT, 0))
        return process.returncode or 0, printed.read().decode(errors="replace").strip()[-KEPT:]
