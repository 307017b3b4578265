"""The raw floor: what PostgreSQL takes to lead again when somebody knows at once that the primary is dead, or stops it.

By policy `required`, as Lifeboat promotes: the surviving voter follows the candidate and has reached its position, the
candidate starts with it as its synchronous set, and the configuration is reloaded every 10 ms until it leads
(safety.md, "Promotion"). No detection, no fence, no routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid
from datetime import UTC, datetime

from bench.common import BenchFailed
from bench.stand import Stand
from lab.traffic import INSERT
from lab.wire import Lost, NotConnected, Refused, Session

RELOAD_S = 0.01
STEP_S = 10.0
ASK_S = 2.0

_POSITION = (
    "SELECT greatest(coalesce(pg_last_wal_receive_lsn() - '0/0', 0),"
    " coalesce(pg_last_wal_replay_lsn() - '0/0', 0))::bigint"
)


class FloorFailed(Exception):
    """A promotion by hand did not come to an end."""


async def promote(stand: Stand, *, rate: float) -> float:
    """Seconds from the SIGKILL of the primary to the first acknowledged write straight to the promoted standby."""
    await stand.begin(watch=False, rate=rate)
    service = stand.service
    voters = [name for name in service.synchronous.voters if name != service.home]
    sessions: dict[str, Session] = {}
    try:
        for name in voters:
            sessions[name] = await stand.session(name)
        killed = await stand.kill_primary()
        async with asyncio.timeout(STEP_S):
            return await _to_first_write(stand, sessions) - killed
    except TimeoutError:
        raise FloorFailed(f"no acknowledged write within {STEP_S:g} s of the kill") from None
    except (NotConnected, Refused, Lost) as error:
        raise FloorFailed(str(error)) from error
    finally:
        for session in sessions.values():
            session.close()
        await stand.end()


async def hand_over(stand: Stand, *, rate: float) -> float:
    """Seconds from `pg_ctl stop` of the primary to the first acknowledged write straight to the promoted standby.

    Prepared as a switchover is: a checkpoint, and the surviving voter behind the candidate. The standby is promoted
    once it has the primary's shutdown checkpoint. Clients are neither paused nor routed.
    """
    await stand.begin(watch=False, rate=rate)
    service = stand.service
    candidate, *survivors = [name for name in service.synchronous.voters if name != service.home]
    sessions: dict[str, Session] = {}
    try:
        for name in (service.home, candidate, *survivors):
            sessions[name] = await stand.session(name)
        await sessions[service.home].ask("CHECKPOINT", limit=STEP_S)
        await asyncio.gather(*(_follow(stand, sessions[name], candidate) for name in survivors))
        async with asyncio.timeout(STEP_S):
            await _until_following(sessions, candidate, survivors, 0)
            await asyncio.sleep(1.0)
            began = time.time()
            data = str(stand.lab.paths.data(service.home))
            await stand.node_command(service.home, stand.program("pg_ctl"), "-D", data, "-m", "fast", "stop")
            shut = await stand.node_command(service.home, stand.program("pg_controldata"), "-D", data)
            end = _bytes(re.search(r"Latest checkpoint location: +(\S+)", shut))
            while await _number(sessions[candidate], _POSITION) <= end:
                await asyncio.sleep(RELOAD_S / 2)
            await _set(sessions[candidate], "synchronous_standby_names", _any_1(survivors))
            await _until_following(sessions, candidate, survivors, end)
            promote = (stand.program("pg_ctl"), "-D", str(stand.lab.paths.data(candidate)), "-W", "promote")
            await stand.node_command(candidate, *promote)
            del sessions[service.home]
            return await _awake_until_written(stand, sessions, candidate) - began
    except TimeoutError:
        raise FloorFailed(f"no acknowledged write within {STEP_S:g} s of the stop") from None
    except (NotConnected, Refused, Lost, BenchFailed) as error:
        raise FloorFailed(str(error)) from error
    finally:
        for session in sessions.values():
            session.close()
        await stand.end()


def _bytes(lsn: re.Match[str] | None) -> int:
    if lsn is None:
        raise FloorFailed("pg_controldata names no checkpoint")
    high, _, low = lsn.group(1).partition("/")
    return (int(high, 16) << 32) + int(low, 16)


async def _to_first_write(stand: Stand, sessions: dict[str, Session]) -> float:
    found = await asyncio.gather(*(_number(session, _POSITION) for session in sessions.values()))
    positions = dict(zip(sessions, found, strict=True))
    candidate = max(positions, key=lambda name: positions[name])
    survivors = [name for name in sessions if name != candidate]
    await asyncio.gather(
        _set(sessions[candidate], "synchronous_standby_names", _any_1(survivors)),
        *(_follow(stand, sessions[name], candidate) for name in survivors),
    )
    await _until_following(sessions, candidate, survivors, positions[candidate])
    await sessions[candidate].ask("SELECT pg_promote(false)", limit=ASK_S)
    return await _awake_until_written(stand, sessions, candidate)


def _any_1(names: list[str]) -> str:
    quoted = ",".join(f'"{name}"' for name in names)
    return f"ANY 1 ({quoted})"


async def _until_following(sessions: dict[str, Session], leader: str, names: list[str], position: int) -> None:
    """Wait until `names` stream from the leader and have flushed up to `position`, bytes."""
    following = (
        "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        f" AND application_name IN ({', '.join(_literal(name) for name in names)})"
        f" AND flush_lsn - '0/0' >= {position}"
    )
    while await _number(sessions[leader], following) < len(names):
        # A standby whose sender went away waits wal_retrieve_retry_interval otherwise.
        await asyncio.gather(*(_reload(sessions[name]) for name in names))
        await asyncio.sleep(RELOAD_S / 2)


async def _awake_until_written(stand: Stand, sessions: dict[str, Session], candidate: str) -> float:
    """When the candidate first acknowledged a row; candidate and survivors are kept awake until then."""
    writing = asyncio.create_task(_first_write(stand, candidate))
    try:
        while not writing.done():
            await asyncio.gather(*(_reload(session) for session in sessions.values()))
            await asyncio.wait({writing}, timeout=RELOAD_S)
        return await writing
    finally:
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing


async def _first_write(stand: Stand, candidate: str) -> float:
    """When the candidate first acknowledged a row; it refuses them while it is in recovery."""
    session = await stand.session(candidate)
    try:
        while True:
            values = (str(uuid.uuid4()), "bench", datetime.now(UTC).isoformat(), 1, "straight")
            try:
                answer = await session.ask(INSERT, *values, limit=STEP_S)
            except Refused:
                await asyncio.sleep(RELOAD_S / 2)
            else:
                if not answer.warnings:
                    return time.time()
    finally:
        session.close()


async def _follow(stand: Stand, standby: Session, candidate: str) -> None:
    answer = await standby.ask("SELECT current_setting('primary_conninfo')", limit=ASK_S)
    node = stand.lab.node(candidate)
    conninfo = re.sub(r"\bhost=\S+", f"host={node.host}", str(answer.rows[0][0]))
    await _set(standby, "primary_conninfo", re.sub(r"\bport=\S+", f"port={node.port}", conninfo))


async def _set(session: Session, name: str, value: str) -> None:
    await session.ask(f"ALTER SYSTEM SET {name} = {_literal(value)}", limit=ASK_S)
    await _reload(session)


async def _reload(session: Session) -> None:
    await session.ask("SELECT pg_reload_conf()", limit=ASK_S)


async def _number(session: Session, sql: str) -> int:
    return int((await session.ask(sql, limit=ASK_S)).rows[0][0] or 0)


def _literal(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"'{escaped}'"
