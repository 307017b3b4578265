"""download_temporal.py VERSION FILE: the Temporal CLI by the SDK's own download; exit 1 and one line without it."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from temporalio.testing import WorkflowEnvironment

LIMIT_S = 150.0


async def download(version: str, target: Path) -> None:
    """The SDK downloads only what it then starts, so a server runs for a moment, in memory, on a free loopback port."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download.") as folder:
        async with asyncio.timeout(LIMIT_S):
            server = await WorkflowEnvironment.start_local(
                download_dest_dir=folder, dev_server_download_version=version, dev_server_log_level="error"
            )
            await server.shutdown()
        (program,) = (each for each in Path(folder).iterdir() if os.access(each, os.X_OK))
        program.replace(target)


def main() -> int:
    version, target = sys.argv[1], Path(sys.argv[2])
    try:
        asyncio.run(download(version, target))
    except (RuntimeError, OSError, TimeoutError, ValueError) as error:
        print(f"setup: the download of Temporal CLI {version} failed: {error or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # A download that hangs in the SDK's own threads must not keep the process.
    os._exit(code)
