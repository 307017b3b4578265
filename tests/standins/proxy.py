"""A real HAProxy before small servers that say who they are."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

from lab.binaries import find_program
from schemas.routes import HAProxyRoute
from tests.standins.server import Server, free_port

# A short idle limit of the runtime API, as docs/adopting.md asks for.
_CONF = """\
global
  stats socket ipv4@127.0.0.1:{api} level {level}
  stats timeout 3s
defaults
  mode tcp
  timeout connect 2s
  timeout client 1m
  timeout server 1m
listen counting
  bind 127.0.0.1:{port}
  load-server-state-from-file local
  server-state-file-name {folder}/state
{servers}
"""


class Proxy(Server):
    """`members`: address of each member's server, by name. All but the first are in maintenance at first."""

    def __init__(self, folder: Path, members: Mapping[str, tuple[str, int]], level: str) -> None:
        self.folder, self.port, self.api = folder, free_port(), free_port()
        folder.mkdir(parents=True)
        lines = [
            f"  server {name} {host}:{port} check inter 200ms" + (" disabled" if place else "")
            for place, (name, (host, port)) in enumerate(members.items())
        ]
        text = _CONF.format(level=level, api=self.api, port=self.port, folder=folder, servers="\n".join(lines))
        (folder / "haproxy.cfg").write_text(text)
        self.route = HAProxyRoute(
            name="haproxy-east",
            host="127.0.0.1",
            port=self.port,
            region="us-east-1",
            socket=f"127.0.0.1:{self.api}",
            backend="counting",
            servers={name: name for name in members},
            state_file=str(folder / "state"),
        )
        self.command = [str(find_program("haproxy")), "-db", "-f", str(folder / "haproxy.cfg")]
        self.ready = self.api


@contextlib.contextmanager
def proxy(folder: Path, members: Mapping[str, tuple[str, int]], *, level: str = "admin") -> Iterator[Proxy]:
    made = Proxy(folder, members, level)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def namesakes(*names: str) -> AsyncIterator[dict[str, tuple[str, int]]]:
    """Servers that say their name once a client has connected, and keep the connection open."""
    async with contextlib.AsyncExitStack() as stack:
        found: dict[str, tuple[str, int]] = {}
        for name in names:

            async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str = name) -> None:
                writer.write(name.encode() + b"\n")
                await writer.drain()

            server = await stack.enter_async_context(await asyncio.start_server(serve, "127.0.0.1", 0))
            found[name] = server.sockets[0].getsockname()[:2]
        yield found


async def who_answers(port: int) -> str:
    """Who answers a new client; "" when nobody does."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        line = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
    except OSError:
        return ""
    return line.decode().strip()
