"""What a rejoin is measured against: pg_rewind and pg_basebackup by hand, and the same folder before each of them."""

from __future__ import annotations

import asyncio
import time

from activities.data_folder import source
from activities.fencing import conninfo
from bench.divergence import streaming, until
from bench.stand import Stand
from lab import lab as life

LIMIT_S = 120.0

_REWIND = """
set -e
data=$1 bin=$2 source=$3 conninfo=$4
mkdir hand && cp -p "$data/postgresql.conf" "$data/pg_hba.conf" hand/
"$bin/pg_rewind" -D "$data" --source-server="$source" --write-recovery-conf
cp -p hand/* "$data/" && rm -r hand
printf "primary_conninfo = '%s'\\n" "$conninfo" >> "$data/postgresql.auto.conf"
"""
"""pg_rewind copies the source's configuration, its address too, over the member's own."""


async def keep_copy(stand: Stand, member: str) -> None:
    """The member's folder as it is, stopped, so that two ways can begin from it."""
    # That of the run before would take this one in.
    await stand.node_command(member, "rm", "-rf", "copy", limit=LIMIT_S)
    await stand.node_command(member, "cp", "--archive", "--reflink=auto", "data", "copy", limit=LIMIT_S)


async def put_back(stand: Stand, member: str) -> None:
    """The member stopped, and its folder as it was kept."""
    await life.fault(stand.lab, "stop", member)
    await empty(stand, member)
    await stand.node_command(member, "cp", "--archive", "--reflink=auto", "copy/.", "data/", limit=LIMIT_S)
    await stand.node_command(member, "sync", limit=LIMIT_S)


async def empty(stand: Stand, member: str) -> None:
    """The member stopped, and nothing in its folder."""
    await life.fault(stand.lab, "stop", member)
    await stand.node_command(member, "find", "data", "-mindepth", "1", "-delete", limit=LIMIT_S)


async def rewind(stand: Stand, member: str, leader: str) -> float:
    """Seconds of pg_rewind, and a start as a standby, until the leader has it streaming."""
    service = stand.service
    old, new = service.member(member), service.member(leader)
    words = (str(stand.lab.paths.data(member)), str(stand.lab.pg_bin), source(service, old, new, rewind=True))
    began = time.monotonic()
    await stand.node_command(member, "sh", "-c", _REWIND, "hand", *words, conninfo(service, old, new), limit=LIMIT_S)
    await life.fault(stand.lab, "start", member)
    return await until_streams(stand, member, leader) - began


async def until_streams(stand: Stand, member: str, leader: str) -> float:
    """When the leader first has the member streaming, monotonic seconds."""
    session = await stand.session(leader)
    try:

        async def streams() -> bool:
            return member in await streaming(session)

        await until(streams, LIMIT_S, f"{member} streams from {leader}")
        return time.monotonic()
    finally:
        session.close()


async def copy(stand: Stand, member: str, leader: str) -> float:
    """Seconds of pg_basebackup into the member's empty folder; it is not started."""
    service = stand.service
    data, origin = str(stand.lab.paths.data(member)), source(service, service.member(member), service.member(leader))
    options = ("-D", data, "-d", origin, "-X", "stream", "-c", "fast", "--no-password")
    began = time.monotonic()
    await stand.node_command(member, stand.program("pg_basebackup"), *options, limit=LIMIT_S)
    return time.monotonic() - began


async def load_bulk(stand: Stand, leader: str, megabytes: int, idle: list[str]) -> int:
    """Some data to copy, on the leader; its databases' bytes. `idle` are stopped: they would only receive it."""
    await asyncio.gather(*(life.fault(stand.lab, "stop", name) for name in idle))
    session = await stand.session(leader)
    try:
        await session.ask("CREATE TABLE bench_bulk (filler text)", limit=LIMIT_S)
        await session.ask("ALTER TABLE bench_bulk ALTER filler SET STORAGE EXTERNAL", limit=LIMIT_S)
        rows = megabytes * 128
        filling = f"INSERT INTO bench_bulk SELECT repeat('x', 8000) FROM generate_series(1, {rows})"
        await session.ask(filling, limit=LIMIT_S)
        await session.ask("CHECKPOINT", limit=LIMIT_S)
        asked = "SELECT sum(pg_database_size(oid))::bigint FROM pg_database"
        return int((await session.ask(asked, limit=LIMIT_S)).rows[0][0] or 0)
    finally:
        session.close()
