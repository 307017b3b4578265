"""The lab's estate: its nodes with their addresses, and the topology file that the product reads."""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lab.model import LabNode
from schemas.topology import Topology

SERVICE = "counting-db"
DATABASE = "counting"
ZONE = "lab.lifeboat.test"
RECORD = f"{SERVICE}.{ZONE}"
REGIONS = {"us-east-1": "primary", "us-west-2": "standby", "eu-west-1": "dr"}
HOME = "pg-east-1"
VOTERS = ["pg-east-1", "pg-east-2", "pg-east-3"]
CASCADES = {"pg-west-2": "pg-west-1"}
POSTGRES = {
    "pg-east-1": ("us-east-1", "127.0.1.1"),
    "pg-east-2": ("us-east-1", "127.0.1.2"),
    "pg-east-3": ("us-east-1", "127.0.1.3"),
    "pg-east-4": ("us-east-1", "127.0.1.4"),
    "pg-west-1": ("us-west-2", "127.0.2.1"),
    "pg-west-2": ("us-west-2", "127.0.2.2"),
}
POOLERS = {"pgbouncer-east": ("us-east-1", "127.0.1.21"), "pgbouncer-west": ("us-west-2", "127.0.2.21")}
DNS = ("knot-eu", "eu-west-1", "127.0.3.53")
DATABASES = {
    "counting": f"dbname={DATABASE} pool_mode=transaction",
    "counting_session": f"dbname={DATABASE} pool_mode=session",
}
_OFFSETS = {"postgres": 0, "pgbouncer": 1, "knot": 2, "temporal": 3, "ui": 4}


def choose_base_port() -> int:
    """A port from which five are free on every address of the lab, below the range of ephemeral ports."""
    addresses = [host for _, host in (*POSTGRES.values(), *POOLERS.values())] + [DNS[2], "127.0.0.1"]
    for base in random.sample(range(20000, 32000, 10), 200):
        if all(_free(host, base + offset) for host in addresses for offset in _OFFSETS.values()):
            return base
    raise RuntimeError("no free range of ports between 20000 and 32000; end another lab first")


def _free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def nodes(base: int) -> list[LabNode]:
    found = [
        LabNode(name=name, kind="postgres", region=region, host=host, port=base + _OFFSETS["postgres"])
        for name, (region, host) in POSTGRES.items()
    ]
    found += [
        LabNode(name=name, kind="pgbouncer", region=region, host=host, port=base + _OFFSETS["pgbouncer"])
        for name, (region, host) in POOLERS.items()
    ]
    name, region, host = DNS
    found.append(LabNode(name=name, kind="knot", region=region, host=host, port=base + _OFFSETS["knot"]))
    found.append(
        LabNode(name="temporal", kind="temporal", region="", host="127.0.0.1", port=base + _OFFSETS["temporal"])
    )
    found += [
        LabNode(name=f"worker-{region}", kind="worker", region=region, host="127.0.0.1", port=0) for region in REGIONS
    ]
    return found


def ui_port(base: int) -> int:
    return base + _OFFSETS["ui"]


def _control(folder: Path, name: str) -> dict[str, Any]:
    def command(verb: str) -> list[str]:
        return [sys.executable, "-m", "lab.node", verb, str(folder), name]

    return {
        "kind": "command",
        "start": command("start"),
        "stop": command("stop"),
        "autostart_on": command("autostart-on"),
        "autostart_off": command("autostart-off"),
        "timeout_s": 20,
    }


def topology(folder: Path, base: int, service: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The lab's topology as it is written; `service` overrides top-level fields of the service, maps merged."""
    secrets = folder / "secrets"
    members: list[dict[str, Any]] = []
    for name, (region, host) in POSTGRES.items():
        member: dict[str, Any] = {"name": name, "host": host, "port": base, "region": region}
        if name in CASCADES:
            member["follows"] = CASCADES[name]
        members.append(member | {"control": _control(folder, name)})
    routes: list[dict[str, Any]] = [{"kind": "dns", "name": "dns", "record": RECORD, "port": base, "ttl_s": 1}]
    for name, (region, host) in POOLERS.items():
        routes.append(
            {
                "kind": "pgbouncer",
                "name": name,
                "host": host,
                "port": base + _OFFSETS["pgbouncer"],
                "region": region,
                "admin_user": "lifeboat",
                "admin_password": f"file:{secrets}/lifeboat",
                "databases": DATABASES,
                "databases_file": str(folder / "data" / name / "databases.ini"),
            }
        )
    declared: dict[str, Any] = {
        "kind": "postgresql",
        "name": SERVICE,
        "rto_s": 300,
        "rpo_s": 60,
        "error_budget_s": 259.2,
        "home": HOME,
        "members": members,
        "access": {
            "database": DATABASE,
            "user": "lifeboat",
            "password": f"file:{secrets}/lifeboat",
            "probe_user": "lifeboat_probe",
            "probe_password": f"file:{secrets}/lifeboat_probe",
            "replication_user": "replicator",
            "replication_passfile": str(secrets / "replication.pgpass"),
            "sslmode": "disable",
        },
        "synchronous": {"policy": "required", "acknowledgements": 1, "voters": VOTERS, "lost_after_s": 3},
        "routes": routes,
        "detection": {
            "interval_s": 0.2,
            "failures": 3,
            "probe_timeout_s": 1.5,
            "quorum": 2,
            "block_s": 5,
            "heartbeat": True,
        },
        "approval": {"approvers": ["ana", "ben"], "quorum": 1, "expires_s": 120},
        "failover": {"candidates": ["pg-east-2", "pg-east-3", "pg-east-1", "pg-east-4"]},
    }
    for key, value in (service or {}).items():
        declared[key] = declared[key] | value if isinstance(declared.get(key), dict) else value
    return {
        "regions": [{"name": name, "role": role} for name, role in REGIONS.items()],
        "zone": {
            "name": ZONE,
            "servers": [f"{DNS[2]}:{base + _OFFSETS['knot']}"],
            "key_name": "lifeboat",
            "key_algorithm": "hmac-sha256",
            "key_secret": f"file:{secrets}/tsig",
        },
        "services": [declared],
    }


def write_topology(folder: Path, base: int, service: Mapping[str, Any] | None = None) -> Path:
    """Validate and write topology.yaml; returns its path."""
    content = topology(folder, base, service)
    Topology.model_validate(content)
    path = folder / "topology.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
