"""PgBouncer: hold, point and resume, through its console and its included databases file.

Unplanned, clients are cut with KILL, which also holds new ones until RESUME; PAUSE would wait for session clients
and hang on a frozen server. A RELOAD alone leaves session pools on the old primary [safety.md].

KILL frees the pool under a client that is still logging in, and PgBouncer 1.18 dies of it (seen: a segmentation fault
in two of three runs under reconnecting clients). So DISABLE comes first, and KILL once SHOW LISTS counts no login.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row
from temporalio import activity

from activities.files import replace_file
from activities.leading import LEADS_S, until_it_leads
from activities.secrets import resolve
from schemas.failures import EpochSuperseded, NotYet, PauseRefused, RouteUnavailable
from schemas.orders import PauseOrder, PoolerOrder, ProofResult
from schemas.routes import PgBouncerRoute
from schemas.topology import DatabaseService

Console = psycopg.AsyncConnection[dict[str, Any]]
_EPOCH = "; lifeboat.epoch = "


@contextlib.asynccontextmanager
async def console(route: PgBouncerRoute, *, limit: float = 5.0) -> AsyncIterator[Console]:
    """A session on the administration console, by the simple protocol; RouteUnavailable within 2 s otherwise."""
    try:
        conn: Console = await asyncio.wait_for(
            psycopg.AsyncConnection.connect(
                host=route.host,
                port=route.port,
                user=route.admin_user,
                password=resolve(route.admin_password) or "",
                dbname="pgbouncer",
                sslmode="disable",
                autocommit=True,
                prepare_threshold=None,
                row_factory=dict_row,
                cursor_factory=psycopg.AsyncClientCursor,
                connect_timeout=2,
            ),
            2.0,
        )
    except (psycopg.Error, OSError, TimeoutError) as error:
        raise _unavailable(route, error) from error
    try:
        async with asyncio.timeout(limit):
            yield conn
    except (psycopg.OperationalError, OSError, TimeoutError) as error:
        raise _unavailable(route, error) from error
    finally:
        await conn.close()


def _unavailable(route: PgBouncerRoute, error: BaseException) -> RouteUnavailable:
    return RouteUnavailable(f"pooler {route.name} at {route.host}:{route.port}: {str(error) or type(error).__name__}")


async def databases(conn: Console, route: PgBouncerRoute) -> dict[str, dict[str, Any]]:
    """The route's rows of SHOW DATABASES, by name."""
    cursor = await conn.execute("SHOW DATABASES")
    return {row["name"]: row for row in await cursor.fetchall() if row["name"] in route.databases}


@activity.defn
async def read_pooler(order: PoolerOrder) -> ProofResult:
    """Whether the pooler's console answers, and shows every declared database. Nothing is changed."""
    async with console(order.route) as conn:
        found = await databases(conn, order.route)
    missing = sorted(set(order.route.databases) - set(found))
    if missing:
        raise RouteUnavailable(f"pooler {order.route.name} has no database {', '.join(missing)}")
    folder = Path(order.route.databases_file).parent
    if not os.access(folder, os.W_OK):
        raise RouteUnavailable(f"pooler {order.route.name}: {folder} can't be written from this worker")
    return ProofResult(acknowledged=True, evidence=f"{order.route.name} answers")


def _flag(row: dict[str, Any], name: str) -> bool:
    """`paused` and `disabled` of SHOW DATABASES are 0 or 1, as text or number. KILL pauses as well."""
    return int(row[name]) == 1


async def _no_login(conn: Console) -> bool:
    """Whether no client is in mid login, awaited for up to 0.5 s."""
    for _ in range(100):
        cursor = await conn.execute("SHOW LISTS")
        lists = {row["list"]: int(row["items"]) for row in await cursor.fetchall()}
        if lists["login_clients"] == 0:
            return True
        await asyncio.sleep(0.005)
    return False


def file_text(service: DatabaseService, route: PgBouncerRoute, target: str, epoch: int) -> str:
    """The databases file: where each database leads, and the epoch that said so."""
    member = service.member(target)
    lines = [f"{_EPOCH}{epoch}", "[databases]"]
    lines += [
        f"{name} = host={member.host} port={member.port} {options}".rstrip()
        for name, options in route.databases.items()
    ]
    return "\n".join(lines) + "\n"


def file_epoch(path: Path) -> int:
    try:
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    except FileNotFoundError:
        return 0
    return int(first.removeprefix(_EPOCH)) if first.startswith(_EPOCH) else 0


def _refuse_older(order: PoolerOrder) -> None:
    held = file_epoch(Path(order.route.databases_file))
    if held > order.epoch:
        raise EpochSuperseded(f"pooler {order.route.name} is at epoch {held}, this run at {order.epoch}")


@activity.defn
async def hold_pooler(order: PoolerOrder) -> ProofResult:
    """Cut every client and server session of the route, and refuse new ones until it is resumed.

    Nothing to do once the route leads to another member at this epoch: a late attempt must not cut it again.
    """
    path = Path(order.route.databases_file)
    _refuse_older(order)
    async with console(order.route) as conn:
        before = await databases(conn, order.route)
        if file_epoch(path) == order.epoch and not any(_flag(row, "paused") for row in before.values()):
            return ProofResult(acknowledged=False, evidence=f"{order.route.name} already leads elsewhere")
        await _cut(conn, order.route)
        if file_epoch(path) >= order.epoch:
            # This attempt stood still between its look and its act, and the route was led on meanwhile.
            await _let_in(conn, order.route)
            return ProofResult(acknowledged=False, evidence=f"{order.route.name} already leads elsewhere")
        after = await databases(conn, order.route)
        serving = [name for name, row in after.items() if not (_flag(row, "paused") and _flag(row, "disabled"))]
        if serving or set(after) != set(order.route.databases):
            raise NotYet(f"pooler {order.route.name} still serves {serving or 'other databases than declared'}")
    return ProofResult(acknowledged=False, evidence=f"{order.route.name} holds {len(after)} databases")


@activity.defn
async def pause_poolers(orders: list[PauseOrder]) -> list[ProofResult]:
    """Each of them at once, to its end, then the first failure: the workflow goes on once all clients wait."""
    results = await asyncio.gather(*map(pause_pooler, orders), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, ProofResult)]


async def pause_pooler(order: PauseOrder) -> ProofResult:
    """Let clients wait instead of failing: each transaction pool ends what it is at, gives its servers back and holds
    the next query. A session pool would wait for its clients to leave, so that theirs are cut, last.

    RouteUnavailable, with nothing held any more, when a transaction is not at its end within `limit_s`.
    """
    route = order.route
    _refuse_older(order)
    # One console for all of it: a login costs 10 ms and more, which clients would wait.
    async with console(route, limit=order.limit_s + 8) as conn:
        rows = await databases(conn, route)
        usual = {row["key"]: row["value"] for row in await (await conn.execute("SHOW CONFIG")).fetchall()}["pool_mode"]
        modes = {name: row["pool_mode"] or usual for name, row in rows.items()}
        waiting = [name for name in rows if modes[name] != "session"]
        ended = await asyncio.gather(
            *(_pause(route, name, order.limit_s, begun=_flag(rows[name], "paused")) for name in waiting)
        )
        late = [name for name, done in zip(waiting, ended, strict=True) if not done]
        if late:
            await _let_in(conn, route)
            raise PauseRefused(f"{route.name}: {', '.join(late)} not paused within {order.limit_s:g} s")
        if sessions := [name for name in rows if modes[name] == "session"]:
            await _cut(conn, route, *sessions)
        after = await databases(conn, route)
    if not all(_flag(row, "paused") for row in after.values()) or set(after) != set(route.databases):
        raise NotYet(f"pooler {route.name} still serves")
    cut = f", the session clients of {', '.join(sessions)} cut" if sessions else ""
    return ProofResult(acknowledged=False, evidence=f"{route.name} paused{cut}")


async def _pause(route: PgBouncerRoute, name: str, limit: float, *, begun: bool) -> bool:
    """Whether one database was paused in time; its PAUSE has a session of its own, since it answers at its end only.

    `begun`: an attempt of before has said PAUSE, and nobody knows whether what was under way then has ended.
    """
    async with console(route, limit=limit + 5) as conn:
        if begun:
            return await _no_transaction(conn, name, limit)
        asking = asyncio.ensure_future(conn.execute(f'PAUSE "{name}"'))
        try:
            ended, _ = await asyncio.wait({asking}, timeout=limit)
        finally:
            if not asking.done():
                # psycopg keeps a cancel back for 5 s, in which it asks the server to obey; not without its socket.
                conn.pgconn.finish()
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
        if not ended:
            return False
        error = asking.exception()
        if error is None:
            return True
        # A second PAUSE is an error: another attempt was before this one.
        return "already" in str(error) and await _no_transaction(conn, name, limit)


async def _no_transaction(conn: Console, name: str, limit: float) -> bool:
    """Whether no client of a database that is paused holds a server any more, within `limit` seconds."""
    end = asyncio.get_running_loop().time() + limit
    while True:
        cursor = await conn.execute("SHOW POOLS")
        if not any(int(row["sv_active"]) for row in await cursor.fetchall() if row["database"] == name):
            return True
        if asyncio.get_running_loop().time() > end:
            return False
        await asyncio.sleep(0.01)


async def _cut(conn: Console, route: PgBouncerRoute, *names: str) -> None:
    """Every session of the route is ended (or of these databases), and no new one begins. NotYet while clients hang in
    their login.
    """
    found = await databases(conn, route)
    before = {name: row for name, row in found.items() if not names or name in names}
    for name, row in before.items():
        if not _flag(row, "disabled"):
            await conn.execute(f'DISABLE "{name}"')
    if not all(_flag(row, "paused") for row in before.values()) and not await _no_login(conn):
        raise NotYet(f"clients of {route.name} hang in their login, so its sessions can't be cut safely")
    for name, row in before.items():
        if not _flag(row, "paused"):
            await conn.execute(f'KILL "{name}"')


async def _let_in(conn: Console, route: PgBouncerRoute, held: dict[str, dict[str, Any]] | None = None) -> None:
    """Undo of the hold. A second RESUME is an error, so that each is looked at first, or was a moment ago (`held`)."""
    for name, row in (held or await databases(conn, route)).items():
        if _flag(row, "paused"):
            # Another attempt may have been before this one.
            with contextlib.suppress(psycopg.DatabaseError) if held else contextlib.nullcontext():
                await conn.execute(f'RESUME "{name}"')
        if _flag(row, "disabled"):
            await conn.execute(f'ENABLE "{name}"')


@activity.defn
async def point_pooler(order: PoolerOrder) -> ProofResult:
    """Lead the route to the target and let clients in: file, RELOAD, RESUME where held, observed in SHOW DATABASES.

    `once_it_leads`: the pooler is led there at once, and its clients are let in when the target is seen to lead.
    """
    member = order.service.member(order.target)
    path = Path(order.route.databases_file)
    await asyncio.sleep(order.after_s)
    _refuse_older(order)
    text = file_text(order.service, order.route, order.target, order.epoch)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        try:
            replace_file(path, text)
        except OSError as error:
            raise RouteUnavailable(f"{path}: {error.strerror}") from error
    # One console for all of it: a login after the target leads would be waited for.
    async with console(order.route, limit=LEADS_S + 5 if order.once_it_leads else 5.0) as conn:
        before = await databases(conn, order.route)
        if any((row["host"], int(row["port"])) != (member.host, member.port) for row in before.values()) or not before:
            # Where the hold did not come through, a RELOAD alone would leave session pools on the old primary. Those
            # that are paused have no server any more, and their clients wait.
            loose = [name for name, row in before.items() if not _flag(row, "paused")]
            if loose or not before:
                await _cut(conn, order.route, *loose)
            await conn.execute("RELOAD")
        held = None
        if order.once_it_leads:
            held = await databases(conn, order.route)
            await until_it_leads(order.service, member)
            _refuse_older(order)
        await _let_in(conn, order.route, held)
        after = await databases(conn, order.route)
    wrong = [
        name
        for name, row in after.items()
        if _flag(row, "paused")
        or _flag(row, "disabled")
        or (row["host"], int(row["port"])) != (member.host, member.port)
    ]
    if wrong or set(after) != set(order.route.databases):
        raise NotYet(f"pooler {order.route.name} does not lead {wrong or 'all its databases'} to {member.name} yet")
    return ProofResult(acknowledged=True, evidence=f"{order.route.name} leads to {member.name}")
