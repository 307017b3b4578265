"""A store that has bad luck: it passes what pgBackRest asks on to a real one, and does to some answers what is said."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lab.authority import certificates

Kind = Literal["500", "501", "503", "403", "slow", "cut", "changed", "held", "lost", "overwrites"]
SLOW_S = 3.0
_CALL_S = 60.0
_BODY = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>%b</Code><Message>bad luck</Message></Error>'
_CODES = {"500": b"InternalError", "503": b"SlowDown", "403": b"InvalidAccessKeyId", "501": b"NotImplemented"}


@dataclass
class Luck:
    """What comes of requests for objects whose path has `part`: of `times` of them, or of all until `over`.

    `since`: not before this holds. `slow`: seconds late. `cut`: half of the body. `changed`: one byte of it is another.
    `held`: until `over`. `lost`: it is done, and the answer is that it was not. `overwrites`: whatever the
    condition, on a store that compares no signatures.
    """

    kind: Kind
    part: str
    times: int | None = None
    method: str = "GET"
    since: Callable[[], bool] = lambda: True
    hits: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def is_for(self, method: str, target: str) -> bool:
        left = self.times is None or self.hits < self.times
        meant = method == self.method and self.part in target
        return left and meant and not self.over.is_set() and self.since()


class BadStore:
    """Answers at `port` of 127.0.0.1, by TLS, with a certificate that `authority` vouches for."""

    def __init__(self, folder: Path, host: str, port: int, trusted: Path | None) -> None:
        self.host, self.real = "127.0.0.1", (host, port)
        self.port = 0
        self.lucks: list[Luck] = []
        self.asked: list[str] = []
        authority, certificate, key = certificates(self.host)
        self.authority = folder / "bad-store-authority.pem"
        self.authority.write_text(authority, encoding="ascii")
        self.authority.chmod(0o644)
        pair = folder / "bad-store.pem"
        pair.write_text(key + certificate, encoding="ascii")
        self.serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.serving.load_cert_chain(pair)
        self.asking = ssl.create_default_context(cafile=trusted) if trusted is not None else None

    def has(self, kind: Kind, part: str, times: int | None = None, **more: Any) -> Luck:
        """Bad luck from now on."""
        luck = Luck(kind, part, times, **more)
        self.lucks.append(luck)
        return luck

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server: asyncio.StreamWriter | None = None
        try:
            while True:
                head, body = await _message(reader, continues=writer)
                method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
                self.asked.append(f"{method} {target}")
                luck = next((each for each in self.lucks if each.is_for(method, target)), None)
                if luck is not None:
                    luck.hits += 1
                    luck.reached.set()
                    if luck.kind in _CODES:
                        writer.write(_refusal(luck.kind))
                        await writer.drain()
                        continue
                    if luck.kind == "held":
                        await luck.over.wait()
                    elif luck.kind == "slow":
                        await asyncio.sleep(SLOW_S)
                    elif luck.kind == "overwrites":
                        head = re.sub(rb"(?i)\r\nif-none-match: [^\r]*", b"", head)
                if server is None:
                    from_server, server = await asyncio.open_connection(*self.real, ssl=self.asking)
                server.write(head + body)
                await server.drain()
                head, body = await _message(from_server, answers=method)
                if luck is not None and luck.kind == "lost":
                    writer.write(_refusal("500"))
                    await writer.drain()
                    continue
                if luck is not None and luck.kind == "changed" and body:
                    middle = len(body) // 2
                    body = body[:middle] + bytes([body[middle] ^ 0xFF]) + body[middle + 1 :]
                if luck is not None and luck.kind == "cut":
                    writer.write(head + body[: len(body) // 2])
                    await writer.drain()
                    return
                writer.write(head + body)
                await writer.drain()
        finally:
            writer.close()
            if server is not None:
                server.close()

    async def serve_quietly(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, ssl.SSLError):
            await self.serve(reader, writer)


def _refusal(kind: str) -> bytes:
    body = _BODY % _CODES[kind]
    lines = (f"HTTP/1.1 {kind} bad luck", "Content-Type: application/xml", f"Content-Length: {len(body)}", "", "")
    return "\r\n".join(lines).encode() + body


async def _message(
    reader: asyncio.StreamReader, *, answers: str | None = None, continues: asyncio.StreamWriter | None = None
) -> tuple[bytes, bytes]:
    """Head and body of a request, or of the answer to one of this method. A body in chunks stays as it came.

    `continues`: to whom it is said that the body is waited for, where that is asked (RFC 9110, 10.1.1).
    """
    head = await reader.readuntil(b"\r\n\r\n")
    asked = re.sub(rb"(?i)\r\nexpect: 100-continue", b"", head)
    if continues is not None and asked != head:
        continues.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await continues.drain()
        head = asked
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    if answers == "HEAD" or (answers is not None and first.split(" ")[1] in ("204", "304")):
        return head, b""
    if "chunked" in fields.get("transfer-encoding", ""):
        body = b""
        while True:
            size = await reader.readuntil(b"\r\n")
            chunk = await reader.readexactly(int(size, 16) + 2)
            body += size + chunk
            if int(size, 16) == 0:
                return head, body
    async with asyncio.timeout(_CALL_S):
        return head, await reader.readexactly(int(fields.get("content-length", "0")))


@contextlib.asynccontextmanager
async def bad_store(folder: Path, host: str, port: int, trusted: Path | None) -> AsyncIterator[BadStore]:
    """Before the store at `host` and `port`, for whom `trusted` vouches (None: without TLS); well until it is said."""
    made = BadStore(folder, host, port, trusted)
    server = await asyncio.start_server(made.serve_quietly, made.host, 0, ssl=made.serving)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        for each in made.lucks:
            each.over.set()
        server.close()
