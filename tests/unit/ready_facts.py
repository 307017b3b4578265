"""What three regions saw of a sound estate, for the tests of the preflight."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.facts import EpochRecord
from schemas.orders import Estate
from schemas.ready import EngineView, Finding, NameSeen, Pool, Pooler, RegionView, Server
from schemas.rejoin import FolderFacts
from schemas.restores import Backup, Stretch
from schemas.takes import BackupView, Verification
from tests.unit import estates
from tests.unit.estates import E1, E2, E3, HOSTS, PORT, REGIONS, W1, W2, receiver
from workflows.policy.ready import judge

KNOT, NAME = "127.0.0.53:53", "counting-db.lab.test"
SETTINGS = {
    "archive_command": "(set)",
    "archive_library": "",
    "archive_mode": "on",
    "data_checksums": "off",
    "default_transaction_read_only": "off",
    "fsync": "on",
    "full_page_writes": "on",
    "hot_standby": "on",
    "max_connections": "200",
    "max_locks_per_transaction": "64",
    "max_prepared_transactions": "0",
    "max_replication_slots": "10",
    "max_wal_senders": "10",
    "max_worker_processes": "8",
    "recovery_min_apply_delay": "0",
    "recovery_target_timeline": "latest",
    "restore_command": "",
    "synchronous_commit": "on",
    "wal_keep_size": "512",
    "wal_level": "replica",
    "wal_log_hints": "on",
    "wal_receiver_timeout": "4000",
    "wal_segment_size": "16777216",
}
CONFIG = {
    "admin_users": "postgres, lifeboat",
    "pool_mode": "transaction",
    "server_login_retry": "0.1",
    "server_connect_timeout": "1",
}
DATA = {"directory": "/srv/data", "bin": "/usr/lib/postgresql/15/bin", "keep": "/srv/keep"}
CONTROL = {"start": ["node", "start"], "stop": ["node", "stop"]}
BACKUP: dict[str, Any] = {
    "repository": {"stanza": "counting-db"},
    "host": {
        "name": "restore-eu",
        "region": "eu-west-1",
        "directory": "/srv/copies",
        "bin": "/usr/lib/postgresql/15/bin",
    },
}
NOW = datetime(2026, 11, 29, 3, 0, tzinfo=UTC)


def backup(label: str, file: int, *, age_h: float, timeline: int = 1, **changed: Any) -> Backup:
    """One that took two WAL files, from the numbered one on."""
    usual: dict[str, Any] = {
        "label": label,
        "kind": "full" if label.endswith("F") else "incr",
        "started": NOW - timedelta(hours=age_h),
        "stopped": NOW - timedelta(hours=age_h),
        "lsn_start": file * SEGMENT + 40,
        "lsn_stop": (file + 1) * SEGMENT + 80,
        "wal_start": wal(file, timeline),
        "wal_stop": wal(file + 1, timeline),
        "system": "1",
        "archive": "15-1",
        "bytes": 10**9,
        "kept_bytes": 10**8,
    }
    return Backup.model_validate(usual | changed)


SEGMENT = 16 * 1024 * 1024


def wal(number: int, timeline: int = 1) -> str:
    return f"{timeline:08X}{number // 256:08X}{number % 256:08X}"


def stretch(first: int, last: int, timeline: int = 1) -> Stretch:
    return Stretch(first=wal(first, timeline), last=wal(last, timeline))


class Facts:
    """What three regions saw of a sound estate, to be spoiled."""

    def __init__(self) -> None:
        self.declared: dict[str, Any] = {
            "members": [
                {
                    "name": name,
                    "host": host,
                    "port": PORT,
                    "region": "us-west-2" if name in (W1, W2) else "us-east-1",
                    "follows": W1 if name == W2 else None,
                    "control": CONTROL,
                    "data": DATA,
                }
                for name, host in HOSTS.items()
            ],
            "access": {"database": "counting", "replication_passfile": "/etc/replication.pgpass"},
            "routes": [
                {"kind": "dns", "name": "dns", "record": NAME, "port": PORT, "ttl_s": 5},
                {
                    "kind": "pgbouncer",
                    "name": "pooler",
                    "host": "127.0.1.21",
                    "port": 6432,
                    "region": "us-east-1",
                    "databases": {"counting": "dbname=counting", "meant": "dbname=counting pool_mode=session"},
                    "databases_file": "/etc/pgbouncer/databases.ini",
                },
                {
                    "kind": "haproxy",
                    "name": "proxy",
                    "host": "127.0.1.22",
                    "port": PORT,
                    "region": "us-east-1",
                    "socket": "/run/haproxy.sock",
                    "backend": "counting",
                    "servers": {name: name for name in (E1, E2, E3)},
                },
                {"kind": "file", "name": "api", "region": "us-east-1", "path": "/etc/api.env", "reload": ["true"]},
            ],
            "backup": BACKUP,
        }
        self.zone: dict[str, Any] = {
            "name": "lab.test",
            "servers": [KNOT],
            "key_name": "lifeboat",
            "key_secret": "env:KEY",
        }
        self.vantages = list(REGIONS)
        self.record: EpochRecord | None = estates.record()
        self.servers = {name: self.standby(name) for name in HOSTS}
        self.servers[E1] = Server(
            seen=estates.leader(names='ANY 1 ("pg-east-2","pg-east-3")', streaming=[E2, E3]),
            **self.usual(E1),
        )
        self.engine: EngineView | None = EngineView(watched=True, probing=list(REGIONS))
        self.pooler = Pooler(
            route="pooler",
            config=CONFIG,
            databases={
                "counting": Pool(host=HOSTS[E1], port=PORT, mode="transaction"),
                "meant": Pool(host=HOSTS[E1], port=PORT, mode="session"),
            },
        )
        self.name = NameSeen(record=NAME, server=KNOT, addresses=[HOSTS[E1]], ttl_s=5)
        self.folders = {
            name: FolderFacts(member=name, running=True, major=15, programs=15, room_bytes=10**9) for name in HOSTS
        }
        self.backups: BackupView | None = BackupView(
            at=NOW,
            backups=[backup("old-F", 0x20, age_h=25), backup("new-I", 0xF8, age_h=1)],
            timeline=1,
            stretches=[stretch(0x20, 0x105)],
            room_bytes=10**11,
            verified=Verification(run="backup-verify/counting-db/1", outcome="done", ended=NOW - timedelta(days=1)),
        )
        self.more: dict[str, dict[str, Any]] = {region: {} for region in REGIONS}
        """Fields of a region's view that differ."""

    @staticmethod
    def usual(name: str) -> dict[str, Any]:
        return {
            "version": 150020,
            "settings": dict(SETTINGS),
            "application_name": name,
            "rewind_role": "replicator",
            "bytes": 10**9,
            "archived": wal(0x105),
            "archived_age_s": 3.0,
        }

    def standby(self, name: str, **changed: Any) -> Server:
        seen = estates.standby(name, receiver=receiver(W1 if name == W2 else E1))
        return Server(seen=seen.model_copy(update=changed), **self.usual(name))

    def set(self, name: str, **settings: str) -> None:
        self.change(name, settings={**self.servers[name].settings, **settings})

    def set_all(self, **settings: str) -> None:
        for name in self.servers:
            self.set(name, **settings)

    def change(self, name: str, **fields: Any) -> None:
        self.servers[name] = self.servers[name].model_copy(update=fields)

    def see(self, name: str, **fields: Any) -> None:
        self.change(name, seen=self.servers[name].seen.model_copy(update=fields))

    def route(self, index: int, **fields: Any) -> None:
        self.declared["routes"][index].update(fields)

    def member(self, name: str, **fields: Any) -> None:
        next(each for each in self.declared["members"] if each["name"] == name).update(fields)

    def spoil(self, region: str, **fields: Any) -> None:
        self.more[region] |= fields

    @staticmethod
    def region_of(name: str) -> str:
        return "us-west-2" if name in (W1, W2) else "us-east-1"

    def back(self, **fields: Any) -> None:
        assert self.backups is not None
        self.backups = self.backups.model_copy(update=fields)

    def folder(self, name: str, **fields: Any) -> None:
        self.folders[name] = self.folders[name].model_copy(update=fields)

    def view(self, region: str) -> RegionView:
        usual: dict[str, Any] = {
            "region": region,
            "digest": "abc",
            "record": self.record,
            "servers": list(self.servers.values()),
            "poolers": [self.pooler],
            "proxies": {"proxy": ""} if region == "us-east-1" else {},
            "applications": {"api": ""} if region == "us-east-1" else {},
            "names": [self.name],
            "addresses": HOSTS,
            "controls": dict.fromkeys(HOSTS, ""),
            "folders": {name: each for name, each in self.folders.items() if self.region_of(name) == region},
        }
        return RegionView.model_validate(usual | self.more[region])

    def findings(self, *, without: tuple[str, ...] = ()) -> list[Finding]:
        estate = Estate.model_validate(
            {"service": estates.service(**self.declared), "zone": self.zone, "vantages": self.vantages}
        )
        views = [self.view(region) for region in REGIONS if region not in without]
        backups = None if BACKUP["host"]["region"] in without else self.backups
        return judge(estate, views, self.engine, machine_s=5, backups=backups)
