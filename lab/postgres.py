"""PostgreSQL of the lab: one primary is built and stopped, and every member is a copy of it."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from lab import backup, config
from lab.command import run
from lab.copying import make_equal
from lab.errors import LabError
from lab.layout import DATABASE, HOME, setup_port
from lab.model import Lab, Node
from lab.owner import as_server, give, write_private
from lab.paths import log_tail
from lab.secrets import ROLES, SUPERUSER, roles_sql, scram_verifier
from lab.waiting import until
from lab.world import server_env

_SETUP_S = 20.0


async def build_pristine(lab: Lab) -> dict[str, str]:
    """Make the stopped primary; returns each role's SCRAM verifier, which poolers share with it."""
    pristine, password = lab.paths.pristine, lab.paths.nodes / "initdb.password"
    pristine.mkdir(mode=0o700)
    give(pristine)
    write_private(password, lab.secret(SUPERUSER), server=True)
    initdb = [
        *(str(lab.pg_bin / "initdb"), "--pgdata", str(pristine), f"--username={SUPERUSER}", f"--pwfile={password}"),
        *("--auth=scram-sha-256", "--locale=C.UTF-8", "--encoding=UTF8", "--data-checksums"),
        *("--no-sync", "--no-instructions"),
    ]
    try:
        await run(initdb, cwd=lab.paths.nodes, env=server_env(lab.folder), server=True)
    finally:
        password.unlink(missing_ok=True)
    verifiers = {role: scram_verifier(lab.secret(role)) for role in ROLES}
    node = lab.node(HOME).model_copy(update={"address": f"127.0.0.1:{setup_port(lab.base_port)}"})
    _configure(lab, node, pristine)
    with lab.paths.log("setup").open("wb") as log:
        server = await asyncio.create_subprocess_exec(
            str(lab.pg_bin / "postgres"),
            *("-D", str(pristine)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=pristine,
            env=server_env(lab.folder),
            **as_server(),
        )
    try:
        await _make_objects(lab, node, verifiers)
        if "backup" in lab.parts:
            await backup.take_first(lab)
    finally:
        server.send_signal(signal.SIGINT)  # fast: a smart shutdown would wait for a session
        await asyncio.wait_for(server.wait(), _SETUP_S)
    if server.returncode != 0:
        raise LabError(f"PostgreSQL's set-up exited {server.returncode}: {log_tail(lab.paths.log('setup'))}")
    return verifiers


async def _make_objects(lab: Lab, node: Node, verifiers: dict[str, str]) -> None:
    conn = await until("PostgreSQL takes its first session", lambda: _session(lab, node, "postgres"), _SETUP_S)
    try:
        await conn.execute(roles_sql(verifiers))
        await conn.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await conn.close()
    conn = await until(f"database {DATABASE} takes a session", lambda: _session(lab, node, DATABASE), _SETUP_S)
    try:
        await conn.execute(config.objects_sql())
        await conn.execute(config.lifeboat_sql())
        if "backup" in lab.parts:
            await conn.execute(config.copy_back_sql())
    finally:
        await conn.close()


async def _session(lab: Lab, node: Node, database: str, limit: float = 1.0) -> asyncpg.Connection | None:
    """A superuser's session, or None while the server takes none within `limit` seconds."""
    try:
        return await asyncpg.connect(
            host=node.host,
            port=node.port,
            user=SUPERUSER,
            password=lab.secret(SUPERUSER),
            database=database,
            # Left out, these two would come from PGSSLMODE and PGTARGETSESSIONATTRS.
            ssl=False,
            target_session_attrs=SessionAttribute.any,
            timeout=limit,
            command_timeout=5.0,
            statement_cache_size=0,
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return None


async def session(lab: Lab, name: str, *, limit: float = 1.0) -> asyncpg.Connection | None:
    """A superuser's session in the service's database of one member, or None when it takes none within `limit` s."""
    return await _session(lab, lab.node(name), DATABASE, limit)


def _configure(lab: Lab, node: Node, data: Path) -> None:
    conf = config.postgresql_conf(node)
    if "backup" in lab.parts:
        conf = config.postgresql_conf(node, str(backup.sockets(lab, node))) + backup.archiving_conf(lab, node)
        write_private(data / "pg_ident.conf", config.pg_ident_conf(), server=True)
        backup.write_archiver(lab, node, data)
    write_private(data / "postgresql.conf", conf, server=True)
    write_private(data / "pg_hba.conf", config.pg_hba_conf(lab), server=True)


async def restore_member(lab: Lab, node: Node) -> None:
    """The node's data folder as it was at the beginning. The node must be stopped; whatever it held is gone."""
    data = lab.paths.data(node.name)
    await asyncio.to_thread(shutil.rmtree, lab.paths.kept(node.name), ignore_errors=True)
    if not data.exists():
        copy = ["cp", "--archive", "--reflink=auto", str(lab.paths.pristine), str(data)]
        await run(copy, cwd=lab.folder, env=server_env(lab.folder), limit=120)
    await asyncio.to_thread(make_equal, lab.paths.pristine, data)
    _configure(lab, node, data)
    if node.upstream is not None:
        write_private(data / "standby.signal", "", server=True)
    write_private(data / "postgresql.auto.conf", config.auto_conf(lab, node), server=True)
