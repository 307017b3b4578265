"""PCP while Pgpool-II ends its own PCP processes, as it does after each change of its backends: seen as resets."""

from __future__ import annotations

import asyncio
import struct

import pytest

from activities import pcp
from schemas.failures import RouteUnavailable
from schemas.reads import PgpoolRoute


def message(letter: bytes, body: bytes) -> bytes:
    return letter + struct.pack("!i", len(body) + 4) + body


class Ending:
    """Speaks PCP, and ends its first connections after so many messages."""

    def __init__(self, *ends_after: int) -> None:
        self.ends_after, self.served = list(ends_after), 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.served += 1
        messages = self.ends_after.pop(0) if self.ends_after else 99
        answers = {
            b"M": [message(b"m", b"salt")],
            b"R": [message(b"r", b"AuthenticationOK\0")],
            b"I": [
                message(b"i", b"ArraySize\0" + b"1\0"),
                message(b"i", b"NodeInfo\0host\0" + b"5432\0" + b"2\0" + b"0\0" * 9 + b"17\0"),
                message(b"i", b"CommandComplete\0"),
            ],
        }
        try:
            for _ in range(messages):
                letter = await reader.readexactly(1)
                (length,) = struct.unpack("!i", await reader.readexactly(4))
                await reader.readexactly(length - 4)
                writer.writelines(answers.get(letter, []))
        except EOFError:
            pass
        finally:
            writer.close()


async def asked(server: Ending, monkeypatch: pytest.MonkeyPatch) -> dict[int, pcp.Backend]:
    monkeypatch.setenv("PCP", "secret")
    async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        route = PgpoolRoute(
            kind="pgpool",
            name="ro",
            host="127.0.0.1",
            port=1,
            pcp_port=port,
            pcp_user="p",
            pcp_password="env:PCP",
            region="us-east-1",
            backends={"a": 0},
        )
        return await pcp.backends(route)


@pytest.mark.parametrize("ends_after", [(0,), (1, 0), (2,), (0, 2)], ids=str)
async def test_a_process_that_ends_meanwhile_is_asked_again(
    ends_after: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Ending(*ends_after)
    found = await asked(server, monkeypatch)
    assert [(each.host, each.since) for each in found.values()] == [("host", 17)]
    assert server.served == len(ends_after) + 1


async def test_one_that_always_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RouteUnavailable, match=r"ro, PCP at 127\.0\.0\.1"):
        await asked(Ending(*[2] * 99), monkeypatch)
