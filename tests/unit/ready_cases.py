"""Everything that a preflight can find: the fault, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from schemas.facts import Branch
from schemas.ready import EngineView, NameSeen, Override, Pooler, Server, Slot
from schemas.takes import Verification
from tests.unit import estates
from tests.unit.estates import E1, E2, E3, E4, HOSTS, REGIONS, SYSTEM, W1, W2
from tests.unit.ready_facts import CONFIG, KNOT, NAME, NOW, SEGMENT, Facts, backup, stretch


def gone(facts: Facts, name: str, why: str = "connection refused") -> None:
    facts.servers[name] = Server(seen=estates.gone(name).model_copy(update={"error": why}))


Case = tuple[str, str, str, str, Callable[[Facts], Any]]
"""Check, severity, a part of where, a part of what, and the fault."""

DECLARED: list[Case] = [
    (
        "plain-password",
        "error",
        "members.1.control.stop.1",
        "plain text",
        lambda f: f.member(E2, control={"start": ["x"], "stop": ["env", "PGPASSWORD=hunter2", "stop"]}),
    ),
    (
        "plain-password",
        "error",
        "routes.1.databases.counting",
        "plain text",
        lambda f: f.declared["routes"][1]["databases"].update(counting="dbname=counting password=hunter2"),
    ),
    (
        "plain-password",
        "error",
        "notify.0.url",
        "plain text",
        lambda f: f.declared.update(notify=[{"kind": "webhook", "name": "hook", "url": "https://a:hunter2@b.test/"}]),
    ),
    (
        "epoch-place",
        "warning",
        "s3://epochs",
        "us-east-1",
        lambda f: f.zone.update(epochs={"bucket": "epochs", "region": "us-east-1"}),
    ),
    (
        "epoch-place",
        "warning",
        "db.test",
        "us-east-1 alone",
        lambda f: (
            f.zone.clear(),
            f.zone.update(kind="route53", name="db.test", hosted_zone_id="Z1", servers=[KNOT]),
        ),
    ),
    ("quorum", "warning", "counting-db", "only 2", lambda f: f.declared.update(detection={"quorum": 3})),
    ("quorum", "warning", "counting-db", "one region's view", lambda f: f.declared.update(detection={"quorum": 1})),
    (
        "voters",
        "warning",
        "counting-db",
        "if one is lost",
        lambda f: (
            (
                f.declared.update(synchronous={"voters": [E1, E2]}, failover={"candidates": [E2, E3]}),
                setattr(f, "record", estates.record(1, [E2])),
                f.see(E1, synchronous_names="ANY 1 (pg-east-2)"),
            )
            and f.see(E1, synchronous_names='ANY 1 ("pg-east-2")')
        ),
    ),
    (
        "voters",
        "warning",
        "counting-db",
        "asynchronous",
        lambda f: (
            f.declared.update(synchronous={"voters": []}, failover={"candidates": [E2]}),
            setattr(f, "record", estates.record(0, [])),
            f.see(E1, synchronous_names=""),
        ),
    ),
    (
        "candidates",
        "error",
        "counting-db",
        "nobody but pg-east-1",
        lambda f: f.declared.update(failover={"candidates": [E1]}),
    ),
    ("name-ttl", "error", NAME, "TTL of 296 s", lambda f: f.route(0, ttl_s=296)),
    (
        "name-ttl",
        "error",
        NAME,
        "TTL of 3600 s",
        lambda f: setattr(f, "name", f.name.model_copy(update={"ttl_s": 3600})),
    ),
]

WORK: list[Case] = [
    ("same-topology", "error", "eu-west-1", "abc; eu-west-1: def", lambda f: f.spoil("eu-west-1", digest="def")),
    ("watch", "error", "counting-db", "not watched", lambda f: setattr(f, "engine", EngineView(watched=False))),
    (
        "watch",
        "warning",
        "eu-west-1",
        "2 of 3 regions",
        lambda f: setattr(f, "engine", EngineView(watched=True, probing=["us-east-1", "us-west-2"])),
    ),
    (
        "watch",
        "error",
        "us-west-2, eu-west-1",
        "2 must agree",
        lambda f: setattr(f, "engine", EngineView(watched=True, probing=["us-east-1"])),
    ),
    (
        "busy",
        "warning",
        "counting-db",
        "run-7 works on",
        lambda f: setattr(f, "engine", EngineView(watched=True, probing=list(REGIONS), holder="run-7")),
    ),
    (
        "secret",
        "error",
        "worker of us-west-2",
        "env:PW can't be resolved: it is not set",
        lambda f: f.spoil("us-west-2", secrets={"env:PW": "it is not set"}),
    ),
    ("clock", "warning", E2, "2 s ahead", lambda f: f.change(E2, clock_s=2.0)),
    ("clock", "error", E2, "60 s behind", lambda f: f.change(E2, clock_s=-60.0)),
    (
        "clock",
        "error",
        "worker of us-west-2",
        "30 s behind",
        lambda f: f.spoil("us-west-2", servers=[s.model_copy(update={"clock_s": 30.0}) for s in f.servers.values()]),
    ),
]

EPOCH: list[Case] = [
    ("epoch-record", "error", "counting-db", "no epoch record", lambda f: setattr(f, "record", None)),
    (
        "epoch-record",
        "error",
        "counting-db",
        "can't be read: no answer",
        lambda f: (
            setattr(f, "record", None),
            [f.spoil(region, epoch_error="no answer") for region in REGIONS],
        ),
    ),
    ("leader", "error", f"{E1}, {E4}", "takes writes", lambda f: f.see(E4, in_recovery=False)),
    ("leader", "error", "counting-db", "chose pg-east-2", lambda f: setattr(f, "record", estates.record(candidate=E2))),
    ("synchronous-names", "error", E1, "no voters that can be counted", lambda f: f.see(E1, synchronous_names="*")),
    (
        "synchronous-names",
        "error",
        E1,
        "it is stalled",
        lambda f: f.see(E1, synchronous_names='FIRST 1 ("__fenced__")'),
    ),
    (
        "synchronous-names",
        "warning",
        E1,
        "the record says 1 of pg-east-2, pg-east-3",
        lambda f: f.see(E1, synchronous_names='ANY 1 ("pg-east-2")'),
    ),
]

SERVERS: list[Case] = [
    ("reached", "error", E3, "not reached: connection refused", lambda f: gone(f, E3)),
    ("reached", "warning", W2, "not reached: connection refused", lambda f: gone(f, W2)),
    (
        "reached",
        "warning",
        E2,
        "not reached from us-west-2",
        lambda f: f.spoil("us-west-2", servers=[Server(seen=estates.gone(E2)), *list(f.servers.values())[2:]]),
    ),
    (
        "hot-standby",
        "error",
        E3,
        "hot_standby is off",
        lambda f: gone(f, E3, "57P03 DETAIL: Hot standby mode is disabled."),
    ),
    ("hot-standby", "error", E1, "hot_standby is off", lambda f: f.set(E1, hot_standby="off")),
    ("same-system", "error", W1, "another cluster", lambda f: f.see(W1, system_identifier=SYSTEM + "9")),
    ("version", "error", W1, "PostgreSQL 16, and pg-east-1 15", lambda f: f.change(W1, version=160001)),
    ("version", "error", W1, "needs 15", lambda f: f.change(W1, version=140001)),
    ("durable", "error", E2, "fsync is off", lambda f: f.set(E2, fsync="off")),
    ("durable", "error", E2, "full_page_writes is off", lambda f: f.set(E2, full_page_writes="off")),
    ("wal-level", "error", E2, "minimal", lambda f: f.set(E2, wal_level="minimal")),
    ("rewind-pages", "error", E1, "wal_log_hints", lambda f: f.set(E1, wal_log_hints="off")),
    ("receiver-timeout", "error", E2, "60 s", lambda f: f.set(E2, wal_receiver_timeout="60000")),
    ("receiver-timeout", "error", E2, "without end", lambda f: f.set(E2, wal_receiver_timeout="0")),
    ("senders", "error", f"{E1}, {E2}, {E3}", "fewer", lambda f: f.set_all(max_wal_senders="3")),
    ("senders", "warning", f"{E1}, {E2}, {E3}", "no room for the copy", lambda f: f.set_all(max_wal_senders="5")),
    ("slots", "error", E3, "max_replication_slots is 2", lambda f: (slots(f), f.set(E3, max_replication_slots="2"))),
    ("slots", "error", E3, "no slot of_e2", lambda f: (slots(f), f.change(E3, slots=[]))),
    ("slots", "error", E1, "slot old is lost", lambda f: f.change(E1, slots=[slot("old", wal_status="lost")])),
    ("slots", "warning", E1, "nobody reads", lambda f: f.change(E1, slots=[slot("old", active=False)])),
    ("slots", "warning", E2, "nobody reads", lambda f: f.change(E2, slots=[slot("old", active=False)])),
    ("wal-kept", "error", E1, "wal_keep_size is 0", lambda f: f.set(E1, wal_keep_size="0")),
    ("archive", "error", E3, "archiver fails (last 0001", lambda f: f.change(E3, archiver_failing="0001")),
    ("archive", "error", E3, "without a command", lambda f: f.set(E3, archive_command="")),
    ("archive", "warning", E3, "ends when this one", lambda f: f.set(E3, archive_mode="off")),
    ("standby-limits", "error", E2, "max_connections is 100", lambda f: f.set(E2, max_connections="100")),
    ("connections", "warning", E1, "190 of 200", lambda f: f.change(E1, sessions=190)),
    ("synchronous-commit", "error", E1, "remote_write", lambda f: f.set(E1, synchronous_commit="remote_write")),
    (
        "synchronous-commit",
        "warning",
        "role app",
        "off for its sessions",
        lambda f: f.change(E1, overrides=[override("app", "synchronous_commit", "off")]),
    ),
    ("read-only", "error", E2, "read_only", lambda f: f.set(E2, default_transaction_read_only="on")),
    (
        "read-only",
        "error",
        "every role in database counting",
        "read_only",
        lambda f: f.change(E1, overrides=[override("", "default_transaction_read_only", "on", database="counting")]),
    ),
    ("apply-delay", "error", E2, "60 s", lambda f: f.set(E2, recovery_min_apply_delay="60000")),
    ("replay", "error", E2, "paused", lambda f: f.change(E2, replay_paused=True)),
    ("replay", "warning", W2, "paused", lambda f: f.change(W2, replay_paused=True)),
    ("upstream", "error", W2, "follows nobody, and should follow pg-west-1", lambda f: f.see(W2, follows="")),
    ("upstream", "error", E2, "follows db:5432", lambda f: f.see(E2, follows="db:5432")),
    ("streaming", "error", E2, "receives nothing from pg-east-1", lambda f: f.see(E2, receiver=None)),
    ("streaming", "warning", W2, "on timeline 1, pg-west-1 on 2", lambda f: diverged(f)),
    (
        "application-name",
        "error",
        E2,
        "knows it as walreceiver",
        lambda f: f.change(E2, application_name="walreceiver"),
    ),
    ("application-name", "warning", W2, "knows it as x", lambda f: f.change(W2, application_name="x")),
    ("conninfo-password", "warning", E2, "primary_conninfo", lambda f: f.change(E2, password_in_conninfo=True)),
    ("timeline-target", "error", E2, "current", lambda f: f.set(E2, recovery_target_timeline="current")),
    ("pending-restart", "warning", E2, "max_connections will", lambda f: f.change(E2, pending=["max_connections"])),
    ("rights", "error", f"{E1}, {E2}", "lacks pg_signal_backend", lambda f: lacking(f, E1, E2)),
    ("superuser", "warning", E1, "is a superuser", lambda f: f.change(E1, superuser=True)),
    (
        "replication-role",
        "error",
        E1,
        "lacks REPLICATION",
        lambda f: f.change(E1, replication_lacking="lacks REPLICATION"),
    ),
    (
        "replication-role",
        "warning",
        "services.counting-db.access",
        "no `replication_passfile`",
        lambda f: f.declared.update(access={"database": "counting"}),
    ),
    ("rewind-rights", "error", E1, "pg_ls_dir", lambda f: f.change(E1, rewind_lacking=["pg_ls_dir(…)"])),
]

ROUTES: list[Case] = [
    ("node-control", "error", E1, "does not work: no", lambda f: [f.spoil(r, controls={E1: "no"}) for r in REGIONS]),
    ("data-folder", "warning", W1, "not declared", lambda f: f.member(W1, data=None)),
    ("data-folder", "error", W1, "worked on: no", lambda f: f.spoil("us-west-2", folder_errors={W1: "no"})),
    ("data-folder", "error", E1, "PostgreSQL none", lambda f: f.folder(E1, programs=0)),
    ("data-folder", "error", E2, "a rewind has begun", lambda f: f.folder(E2, begun="rewind")),
    (
        "disk-room",
        "error",
        E3,
        "room for 1.0 GB, and a copy",
        lambda f: f.folder(E3, room_bytes=0),
    ),
    ("node-control", "warning", W1, "work from us-west-2: no", lambda f: f.spoil("us-west-2", controls={W1: "no"})),
    (
        "name",
        "error",
        KNOT,
        "does not answer: silent",
        lambda f: setattr(f, "name", NameSeen(record=NAME, server=KNOT, error="silent")),
    ),
    (
        "name",
        "error",
        NAME,
        "leads to 127.0.1.2 at",
        lambda f: setattr(f, "name", f.name.model_copy(update={"addresses": [HOSTS[E2]]})),
    ),
    (
        "pooler",
        "error",
        "pooler",
        "can't be led: refused",
        lambda f: setattr(f, "pooler", Pooler(route="pooler", error="refused")),
    ),
    ("pooler", "error", "pooler", "none of its admin_users", lambda f: pooled(f, config={"admin_users": "ana"})),
    ("pooler-leads", "error", "pooler", "meant leads to 127.0.1.2", lambda f: pooled(f, "meant", host=HOSTS[E2])),
    ("pooler-mode", "error", "pooler", "by statement", lambda f: pooled(f, "counting", mode="statement")),
    ("pooler-mode", "warning", "pooler", "by session", lambda f: pooled(f, "counting", mode="session")),
    (
        "pooler-settings",
        "warning",
        "pooler",
        "server_login_retry is 15 s",
        lambda f: pooled(f, config={"server_login_retry": "15"}),
    ),
    (
        "pooler-settings",
        "warning",
        "pooler",
        "query_wait_timeout is 5 s",
        lambda f: pooled(f, config={"query_wait_timeout": "5"}),
    ),
    ("proxy", "error", "proxy", "can't be led: no", lambda f: f.spoil("us-east-1", proxies={"proxy": "no"})),
    ("application", "error", "api", "can't be told", lambda f: f.spoil("us-east-1", applications={"api": "no"})),
]


def slot(name: str, *, active: bool = True, wal_status: str = "reserved") -> Slot:
    return Slot(name=name, physical=True, active=active, wal_status=wal_status)


def slots(facts: Facts) -> None:
    """pg-east-2 follows by a slot, which all that may lead have."""
    facts.change(E2, slot="of_e2")
    for name in (E1, E3):
        active = name == E1
        facts.change(name, slots=[slot("of_e2", active=active, wal_status="reserved" if active else "")])


def override(role: str, setting: str, value: str, database: str = "") -> Override:
    return Override(role=role, database=database, setting=setting, value=value)


def diverged(facts: Facts) -> None:
    facts.see(W1, timeline=2)
    facts.see(W2, receiver=None)


def lacking(facts: Facts, *names: str) -> None:
    for name in names:
        facts.change(name, lacking=["pg_signal_backend"])


def pooled(facts: Facts, database: str = "", *, config: dict[str, str] | None = None, **fields: Any) -> None:
    databases = dict(facts.pooler.databases)
    if database:
        databases[database] = databases[database].model_copy(update=fields)
    changed = {"config": CONFIG | (config or {}), "databases": databases}
    facts.pooler = facts.pooler.model_copy(update=changed)


def verified(outcome: str, days: float) -> Verification:
    return Verification(run="backup-verify/counting-db/7", outcome=outcome, ended=NOW - timedelta(days=days))


BACKUPS: list[Case] = [
    ("backup-declared", "warning", "counting-db", "RPO of 60 s", lambda f: f.declared.pop("backup")),
    ("backup-reachable", "error", "restore-eu", "timed out", lambda f: f.back(error="timed out")),
    # A worker answers there, and this look of its did not end.
    ("backup-reachable", "error", "restore-eu", "no answer in time", lambda f: setattr(f, "backups", None)),
    ("backup-age", "error", "counting-db", "there is no backup", lambda f: f.back(backups=[], stretches=[])),
    (
        "backup-age",
        "error",
        "counting-db",
        "leads to timeline 3",
        lambda f: f.back(timeline=3, branches=[Branch(timeline=2, switch=SEGMENT * 0x104)]),
    ),
    (
        "backup-age",
        "warning",
        "counting-db",
        "27.0 h old",
        lambda f: f.back(at=NOW + timedelta(hours=26)),
    ),
    (
        "backup-age",
        "error",
        "counting-db",
        "53.0 h old",
        lambda f: f.back(at=NOW + timedelta(hours=52)),
    ),
    (
        "backup-broken",
        "error",
        "new-I",
        "bad pages",
        lambda f: f.back(backups=[backup("old-F", 0x20, age_h=25), backup("new-I", 0xF8, age_h=1, broken=True)]),
    ),
    (
        "backup-broken",
        "warning",
        "old-F",
        "bad pages",
        lambda f: f.back(backups=[backup("old-F", 0x20, age_h=25, broken=True), backup("new-I", 0xF8, age_h=1)]),
    ),
    # The first file of the next four gigabytes.
    (
        "wal-gap",
        "error",
        "counting-db",
        "000000010000000100000000 is missing from the archive: nothing after it",
        lambda f: f.back(stretches=[stretch(0x20, 0xFF), stretch(0x101, 0x105)]),
    ),
    (
        "wal-gap",
        "error",
        "counting-db",
        "and new-I not at all",
        lambda f: f.back(stretches=[stretch(0x20, 0xF8), stretch(0xFA, 0x105)]),
    ),
    (
        "wal-gap",
        "warning",
        "counting-db",
        "0000000100000000000000E0 is missing from the archive: between it and new-I",
        lambda f: f.back(stretches=[stretch(0x20, 0xDF), stretch(0xE1, 0x105)]),
    ),
    ("wal-gap", "warning", "counting-db", "is not known: no answer", lambda f: f.back(unlisted="no answer")),
    ("archiving", "error", E1, "nothing after the newest backup", lambda f: f.set_all(archive_mode="off")),
    ("archiving", "error", E1, "without a command", lambda f: f.set(E1, archive_command="")),
    ("archiving", "error", E1, "archiver fails (last 0001", lambda f: f.change(E1, archiver_failing="0001")),
    (
        "archiving",
        "error",
        E1,
        "4 WAL files wait",
        lambda f: (f.see(E1, written=0x10A * SEGMENT + 7), f.change(E1, archived_age_s=61.0)),
    ),
    ("restore-room", "error", "restore-eu", "0.5 GB free", lambda f: f.back(room_bytes=5 * 10**8)),
    ("restore-room", "error", "restore-eu", "can't say", lambda f: f.back(room_error="exit 1", room_bytes=None)),
    ("backup-verified", "warning", "counting-db", "is hope", lambda f: f.back(verified=None)),
    ("backup-verified", "warning", "counting-db", "9.0 days old", lambda f: f.back(verified=verified("done", 9))),
    (
        "backup-verified",
        "error",
        "counting-db",
        "needs a person",
        lambda f: f.back(verified=verified("needs a person", 1)),
    ),
    (
        "backup-verified",
        "warning",
        "counting-db",
        "no good",
        lambda f: f.back(verified=verified("done, unprotected", 1)),
    ),
    ("backup-verified", "warning", "counting-db", "not known", lambda f: f.back(verify_error="no answer")),
]

CASES = [*DECLARED, *WORK, *EPOCH, *SERVERS, *ROUTES, *BACKUPS]
