"""PostgreSQL of the lab: one primary is built and stopped, and every member is a copy of it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from lab.command import run
from lab.copying import make_equal
from lab.errors import LabError
from lab.layout import DATABASE, HOME, VOTERS, planned, setup_port
from lab.model import Lab, Node
from lab.owner import as_server, give, write_private
from lab.paths import log_tail
from lab.secrets import ROLES, scram_verifier
from lab.waiting import until
from lab.world import server_env

_SETTINGS = """\
listen_addresses = '{host}'
port = {port}
cluster_name = '{name}'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 32MB
wal_level = replica
wal_log_hints = on
wal_keep_size = 512MB
min_wal_size = 64MB
max_wal_senders = 10
max_replication_slots = 10
hot_standby = on
hot_standby_feedback = on
# A standby denies its primary's death for half of this and one interval (docs/explanation/safety.md).
wal_receiver_timeout = 4s
wal_sender_timeout = 4s
wal_receiver_status_interval = 1s
password_encryption = scram-sha-256
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %a '
"""

_ACCESS = """\
host  all          all         {network}     scram-sha-256
host  replication  replicator  {network}     scram-sha-256
host  all          all         127.0.0.1/32  scram-sha-256
"""

_OBJECTS = """\
CREATE TABLE counting_results (
    id uuid PRIMARY KEY, camera text, counted_at timestamptz, count int, route text
);
ALTER TABLE counting_results OWNER TO app;
CREATE SCHEMA lifeboat;
CREATE TABLE lifeboat.probe (
    route text, region text, run text, token text, at timestamptz DEFAULT clock_timestamp(),
    PRIMARY KEY (route, region)
);
CREATE TABLE lifeboat.heartbeat (id int PRIMARY KEY CHECK (id = 1), at timestamptz);
GRANT USAGE ON SCHEMA lifeboat TO lifeboat_probe;
GRANT SELECT, INSERT, UPDATE ON lifeboat.probe TO lifeboat_probe;
"""

_SETUP_S = 20.0


async def build_pristine(lab: Lab) -> dict[str, str]:
    """Make the stopped primary; returns each role's SCRAM verifier, which poolers share with it."""
    pristine, password = lab.paths.pristine, lab.paths.nodes / "initdb.password"
    pristine.mkdir(mode=0o700)
    give(pristine)
    write_private(password, lab.secret("lifeboat"), server=True)
    initdb = [
        *(str(lab.pg_bin / "initdb"), "--pgdata", str(pristine), "--username=lifeboat", f"--pwfile={password}"),
        *("--auth=scram-sha-256", "--locale=C.UTF-8", "--encoding=UTF8", "--no-sync", "--no-instructions"),
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
    finally:
        server.send_signal(signal.SIGINT)  # fast: a smart shutdown would wait for a session
        await asyncio.wait_for(server.wait(), _SETUP_S)
    if server.returncode != 0:
        raise LabError(f"PostgreSQL's set-up exited {server.returncode}: {log_tail(lab.paths.log('setup'))}")
    return verifiers


async def _make_objects(lab: Lab, node: Node, verifiers: dict[str, str]) -> None:
    conn = await until("PostgreSQL takes its first session", lambda: _session(lab, node, "postgres"), _SETUP_S)
    try:
        for role, verifier in verifiers.items():
            verb = "ALTER" if role == "lifeboat" else "CREATE"
            replication = " REPLICATION" if role == "replicator" else ""
            await conn.execute(f"{verb} ROLE {role} LOGIN{replication} PASSWORD '{verifier}'")
        await conn.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await conn.close()
    conn = await until(f"database {DATABASE} takes a session", lambda: _session(lab, node, DATABASE), _SETUP_S)
    try:
        await conn.execute(_OBJECTS)
    finally:
        await conn.close()


async def _session(lab: Lab, node: Node, database: str, limit: float = 1.0) -> asyncpg.Connection | None:
    """A superuser's session, or None while the server takes none within `limit` seconds."""
    try:
        return await asyncpg.connect(
            host=node.host,
            port=node.port,
            user="lifeboat",
            password=lab.secret("lifeboat"),
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
    settings = _SETTINGS.format(host=node.host, port=node.port, name=node.name)
    write_private(data / "postgresql.conf", settings, server=True)
    write_private(data / "pg_hba.conf", _ACCESS.format(network=f"{lab.network}.0.0/16"), server=True)


def conninfo(lab: Lab, name: str, upstream: str) -> str:
    """primary_conninfo of a standby. Written here on its own: a fault of the product's must not reach the lab."""
    sender = lab.node(upstream)
    return (
        f"host={sender.host} port={sender.port} user=replicator application_name={name}"
        f" sslmode=disable passfile={lab.paths.passfile}"
    )


async def restore_member(lab: Lab, node: Node) -> None:
    """The node's data folder as it was at the beginning. The node must be stopped; whatever it held is gone."""
    data = lab.paths.data(node.name)
    if not data.exists():
        copy = ["cp", "--archive", "--reflink=auto", str(lab.paths.pristine), str(data)]
        await run(copy, cwd=lab.folder, env=server_env(lab.folder), limit=120)
    await asyncio.to_thread(make_equal, lab.paths.pristine, data)
    _configure(lab, node, data)
    upstream = planned(node.name).upstream
    if upstream is None:
        others = ",".join(f'"{name}"' for name in VOTERS if name != node.name)
        setting = f"synchronous_standby_names = 'ANY 1 ({others})'"
    else:
        setting = f"primary_conninfo = '{conninfo(lab, node.name, upstream)}'"
        write_private(data / "standby.signal", "", server=True)
    # What ALTER SYSTEM would have written, so that Lifeboat's own replaces it.
    write_private(data / "postgresql.auto.conf", setting + "\n", server=True)
