"""Configuration and data of the lab's servers: PostgreSQL, PgBouncer and Knot."""

from __future__ import annotations

import base64
import secrets as randomness
import shutil
import subprocess
from pathlib import Path

import asyncpg

from lab import supervise
from lab.binaries import postgres_folder, system
from lab.estate import CASCADES, DATABASE, DATABASES, DNS, HOME, POOLERS, POSTGRES, RECORD, VOTERS, ZONE
from lab.model import Lab
from lab.world import as_database_user, give_to_database_user

ROLES = ("lifeboat", "lifeboat_probe", "app", "replicator")

_POSTGRESQL = """
listen_addresses = '{host}'
port = {port}
cluster_name = '{name}'
unix_socket_directories = ''
max_connections = 100
shared_buffers = 32MB
wal_level = replica
wal_log_hints = on
wal_keep_size = 512MB
max_wal_size = 512MB
min_wal_size = 32MB
max_wal_senders = 10
max_replication_slots = 10
hot_standby = on
wal_receiver_timeout = 4s
wal_sender_timeout = 4s
wal_receiver_status_interval = 1s
tcp_keepalives_idle = 5
log_line_prefix = '%m [%p] %a '
password_encryption = scram-sha-256
"""

_HBA = """
host all all 127.0.0.0/8 scram-sha-256
host replication replicator 127.0.0.0/8 scram-sha-256
"""

_SCHEMA = """
CREATE TABLE counting_results (id uuid PRIMARY KEY, camera text NOT NULL, counted_at timestamptz NOT NULL,
                               count integer NOT NULL, route text NOT NULL);
ALTER TABLE counting_results OWNER TO app;
CREATE SCHEMA lifeboat;
CREATE TABLE lifeboat.probe (route text, region text, run text NOT NULL, token text NOT NULL,
                             at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (route, region));
CREATE TABLE lifeboat.heartbeat (id integer PRIMARY KEY CHECK (id = 1), at timestamptz NOT NULL);
GRANT USAGE ON SCHEMA lifeboat TO lifeboat_probe;
GRANT SELECT, INSERT, UPDATE ON lifeboat.probe TO lifeboat_probe;
"""

_PGBOUNCER = """
%include {folder}/databases.ini

[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
admin_users = lifeboat
pool_mode = transaction
ignore_startup_parameters = extra_float_digits
max_client_conn = 200
default_pool_size = 20
server_login_retry = 0.1
server_connect_timeout = 1
client_tls_sslmode = disable
server_tls_sslmode = disable
log_connections = 0
log_disconnections = 0
pidfile = {folder}/pgbouncer.pid
"""

_KNOT = """
server:
    listen: {host}@{port}
    rundir: {folder}
    pidfile: {folder}/knot.pid
    udp-workers: 1
    tcp-workers: 2
    background-workers: 1
    tcp-reuseport: off
log:
  - target: stderr
    any: info
control:
    listen: {folder}/knot.sock
database:
    storage: {folder}/db
key:
  - id: lifeboat
    algorithm: hmac-sha256
    secret: {secret}
acl:
  - id: lifeboat
    address: 127.0.0.0/8
    key: lifeboat
    action: [update, query, transfer]
template:
  - id: default
    storage: {folder}/zones
    file: "%s.zone"
    journal-content: changes
    zonefile-sync: -1
    zonefile-load: whole
    dnssec-signing: off
zone:
  - domain: {zone}
    acl: lifeboat
"""

_ZONE = """$ORIGIN {zone}.
$TTL 1
@ SOA ns.{zone}. hostmaster.{zone}. 1 3600 600 86400 1
@ NS ns.{zone}.
ns A {dns}
{record}. 1 A {leader}
"""


def make_secrets(folder: Path) -> None:
    """New passwords of this lab, each in a file of mode 0600, and what the databases' user must read beside them."""
    secrets = folder / "secrets"
    for role in ROLES:
        write_private(secrets / role, randomness.token_urlsafe(18))
    write_private(secrets / "tsig", base64.b64encode(randomness.token_bytes(32)).decode())
    passfile = secrets / "replication.pgpass"
    write_private(passfile, f"*:*:*:replicator:{(secrets / 'replicator').read_text()}\n")
    give_to_database_user(passfile)


def write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _run(argv: list[str], *, cwd: Path) -> None:
    done = subprocess.run(as_database_user(argv), capture_output=True, text=True, timeout=120, check=False, cwd=cwd)
    if done.returncode != 0:
        raise RuntimeError(f"{argv[0]} exited {done.returncode}: {done.stdout[-500:]}{done.stderr[-1500:]}")


async def make_pristine(lab: Lab) -> None:
    """initdb, roles, schema: one stopped data folder that every member is copied from, now and at each reset."""
    binaries, pristine = postgres_folder(), lab.folder / "data" / "pristine"
    home = lab.node(HOME)
    password = lab.folder / "data" / "password"
    write_private(password, lab.secret("lifeboat"))
    give_to_database_user(password)
    _run(
        [
            str(binaries / "initdb"), "-D", str(pristine), "-U", "lifeboat", "--pwfile", str(password),
            "--auth=scram-sha-256", "--locale=C.UTF-8", "-E", "UTF8", "--no-sync",
        ],
        cwd=lab.folder / "data",
    )  # fmt: skip
    password.unlink()
    _write_settings(pristine, HOME, home.host, home.port)
    control = [str(binaries / "pg_ctl"), "-D", str(pristine), "-w", "-t", "30", "-l", str(pristine / "setup.log")]
    _run([*control, "start"], cwd=lab.folder / "data")
    try:
        await _make_objects(lab)
    finally:
        _run([*control, "-m", "fast", "stop"], cwd=lab.folder / "data")
    (pristine / "setup.log").unlink(missing_ok=True)


async def _make_objects(lab: Lab) -> None:
    roles = [
        f"CREATE ROLE {role} LOGIN {'REPLICATION' if role == 'replicator' else ''} PASSWORD '{lab.secret(role)}'"
        for role in ROLES[1:]
    ]
    for database, statements in (("postgres", [*roles, f"CREATE DATABASE {DATABASE}"]), (DATABASE, [_SCHEMA])):
        home = lab.node(HOME)
        conn = await asyncpg.connect(
            host=home.host,
            port=home.port,
            user="lifeboat",
            password=lab.secret("lifeboat"),
            database=database,
            ssl=False,
            timeout=10,
        )
        try:
            for statement in statements:
                await conn.execute(statement)
        finally:
            await conn.close()


def _write_settings(data: Path, name: str, host: str, port: int) -> None:
    (data / "postgresql.conf").write_text(_POSTGRESQL.format(host=host, port=port, name=name), encoding="utf-8")
    (data / "pg_hba.conf").write_text(_HBA, encoding="utf-8")
    give_to_database_user(data / "postgresql.conf", data / "pg_hba.conf")


def lay_members(lab: Lab) -> None:
    """Every member's data folder anew from the pristine one, each in its home role."""
    for name in POSTGRES:
        node, data = lab.node(name), lab.data(name)
        if data.exists():
            shutil.rmtree(data)
        subprocess.run(
            ["cp", "-a", "--reflink=auto", str(lab.folder / "data" / "pristine"), str(data)], check=True, timeout=60
        )
        _write_settings(data, name, node.host, node.port)
        if name == HOME:
            others = ",".join(f'"{voter}"' for voter in VOTERS if voter != HOME)
            settings = f"synchronous_standby_names = 'ANY 1 ({others})'\n"
        else:
            upstream = lab.node(CASCADES.get(name, HOME))
            passfile = lab.folder / "secrets" / "replication.pgpass"
            settings = (
                f"primary_conninfo = 'host={upstream.host} port={upstream.port} user=replicator"
                f" application_name={name} sslmode=disable passfile={passfile}'\n"
            )
            (data / "standby.signal").touch()
        (data / "postgresql.auto.conf").write_text(settings, encoding="utf-8")
        give_to_database_user(data)


def lay_poolers(lab: Lab) -> None:
    home = lab.node(HOME)
    for name in POOLERS:
        node, folder = lab.node(name), lab.data(name)
        folder.mkdir(exist_ok=True)
        users = "".join(f'"{role}" "{lab.secret(role)}"\n' for role in ROLES[:3])
        write_private(folder / "users.txt", users)
        (folder / "pgbouncer.ini").write_text(
            _PGBOUNCER.format(folder=folder, host=node.host, port=node.port), encoding="utf-8"
        )
        lines = [f"{alias} = host={home.host} port={home.port} {options}" for alias, options in DATABASES.items()]
        (folder / "databases.ini").write_text("[databases]\n" + "\n".join(lines) + "\n", encoding="utf-8")
        give_to_database_user(folder)


def lay_zone(lab: Lab) -> None:
    node = lab.node(DNS[0])
    folder = lab.data(node.name)
    shutil.rmtree(folder, ignore_errors=True)
    for inner in ("zones", "db"):
        (folder / inner).mkdir(parents=True)
    text = _KNOT.format(folder=folder, host=node.host, port=node.port, secret=lab.secret("tsig"), zone=ZONE)
    write_private(folder / "knot.conf", text)
    leader = lab.node(HOME).host
    (folder / "zones" / f"{ZONE}.zone").write_text(
        _ZONE.format(zone=ZONE, dns=node.host, record=RECORD, leader=leader), encoding="utf-8"
    )


def programs(lab: Lab) -> list[supervise.Program]:
    """The estate's servers as supervised programs: none of them is restarted."""
    found = []
    for name in POSTGRES:
        data = lab.data(name)
        argv = [str(postgres_folder() / "postgres"), "-D", str(data)]
        found.append(supervise.Program(name, argv, data.parent, as_database=True, stop_signal="INT"))
    for name in POOLERS:
        argv = [system("pgbouncer"), str(lab.data(name) / "pgbouncer.ini")]
        found.append(supervise.Program(name, argv, lab.folder, as_database=True, stop_signal="INT"))
    knot = lab.data(DNS[0])
    found.append(supervise.Program(DNS[0], [system("knotd"), "-c", str(knot / "knot.conf")], lab.folder))
    return found
