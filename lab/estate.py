"""The lab's topology file, made from the models of schemas/topology.py."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from lab import backup, config, network
from lab.cache_estate import cache_service, control
from lab.layout import DATABASE, DATABASES, HOME, READ_RECORD, RECORD, SERVICE, ZONE, pcp_port, shape_of
from lab.model import Lab
from lab.owner import server_ids
from lab.queue_estate import queue_service
from lab.secrets import KEY_NAME
from lab.world import scrubbed_env, server_env
from schemas.topology import Topology

QUICK_LOOKS = 50
"""How often, every 10 ms, a server that was asked to stop is looked at before lab/node.py takes over."""

Overrides = Mapping[str, Any]
"""Fields of the service to declare otherwise; a section (`detection`, `approval` …) is merged field by field."""


def topology(
    lab: Lab,
    overrides: Overrides | None = None,
    cache_overrides: Overrides | None = None,
    queue_overrides: Overrides | None = None,
) -> Topology:
    """The lab's estate, with the lab's own overrides and then these; pydantic's ValidationError for a wrong one."""
    services = []
    if "database" in lab.parts:
        services.append(_changed(_service(lab), lab.overrides, overrides or {}))
    if "cache" in lab.parts:
        services.append(_changed(cache_service(lab), lab.cache_overrides, cache_overrides or {}))
    if "queue" in lab.parts:
        services.append(_changed(queue_service(lab), lab.queue_overrides, queue_overrides or {}))
    return Topology.model_validate(
        {
            "regions": [{"name": name, "role": role} for name, role in shape_of(lab.shape).regions.items()],
            "zone": {
                "name": ZONE,
                "servers": [lab.dns],
                "key_name": KEY_NAME,
                "key_secret": f"file:{lab.secrets / 'tsig'}",
            },
            "services": services,
        }
    )


def _changed(service: dict[str, Any], *overrides: Overrides) -> dict[str, Any]:
    for given in overrides:
        for key, value in given.items():
            before = service.get(key)
            service[key] = {**before, **value} if isinstance(before, dict) and isinstance(value, Mapping) else value
    return service


def write_topology(
    lab: Lab,
    overrides: Overrides | None = None,
    cache_overrides: Overrides | None = None,
    queue_overrides: Overrides | None = None,
) -> None:
    """Write the topology file whole: workers may be reading it."""
    found = topology(lab, overrides, cache_overrides, queue_overrides)
    text = yaml.safe_dump(found.model_dump(mode="json", exclude_none=True), sort_keys=False)
    temporary = lab.topology.with_suffix(".new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, lab.topology)


def write_node_control(lab: Lab) -> None:
    """The command of node control: it works from any folder and environment, as `systemctl` on a node would."""
    environment = _assignments(scrubbed_env(lab))
    server = _assignments(server_env(lab.folder))
    marks, nodes = (shlex.quote(str(lab.folder / each)) for each in ("marks", "nodes"))
    enter = network.enter_by_name(lab, '"$name"', server_ids())
    lines = (
        "#!/bin/sh",
        "# node start|stop|kill|autostart-on|autostart-off NODE; node exec NODE COMMAND …",
        # exec NODE …: a command on the node, as the servers' user; a frozen node does not answer.
        'if [ "$1" = exec ]; then',
        f'  name=$2; shift 2; if [ -e {marks}/"$name".frozen ]; then echo "node does not answer"; exit 1; fi',
        f'  cd {nodes}/"$name" && exec env -i {server} {enter} "$@"',
        "fi",
        "case $1 in autostart-off | autostart-on)",
        f'  if [ -d {nodes}/"$2" ] && [ ! -e {marks}/"$2".frozen ]; then',
        f'    mark={marks}/"$2".autostart-off',
        '    if [ "$1" = autostart-off ]; then : >"$mark"; else rm -f "$mark"; fi && echo "$2: $1 done" && exit 0',
        "  fi",
        "esac",
        # A planned stop waits for this: a server that answers is asked here, without starting a program of 0.2 s. What
        # has not ended by then, or has left anything behind, is left to that.
        f'data={nodes}/"$2"/data',
        f'if [ "$1" = stop ] && [ ! -e {marks}/"$2".frozen ] &&',
        '  { read -r pid <"$data"/postmaster.pid; } 2>/dev/null &&',
        '  [ /proc/"$pid"/cwd -ef "$data" ] && kill -INT "$pid" 2>/dev/null; then',
        f"  for _ in {' '.join(map(str, range(QUICK_LOOKS)))}; do",
        # A process that has ended, reaped or not, works nowhere; its port is closed, and its children ended before it.
        '    if [ ! -e "$data"/postmaster.pid ] && [ ! -e /proc/"$pid"/cwd ]; then',
        '      echo "$2: stop done"; exit 0',
        "    fi",
        "    sleep 0.01",
        "  done",
        "fi",
        f'exec env -i {environment} {shlex.quote(sys.executable)} -m lab.node "$1" {shlex.quote(str(lab.folder))} "$2"',
    )
    lab.paths.control.write_text("\n".join(lines) + "\n", encoding="utf-8")
    lab.paths.control.chmod(0o700)


def _assignments(env: Mapping[str, str]) -> str:
    return " ".join(shlex.quote(f"{name}={value}") for name, value in env.items())


def _service(lab: Lab) -> dict[str, Any]:
    shape = shape_of(lab.shape)
    return {
        "name": SERVICE,
        "rto_s": 300.0,
        "rpo_s": 60.0,
        "error_budget_s": 259.2,
        "home": HOME,
        "members": [_member(lab, node.name) for node in lab.members()],
        "access": {
            "database": DATABASE,
            "user": "lifeboat",
            "password": f"file:{lab.secrets / 'lifeboat'}",
            "probe_user": "lifeboat_probe",
            "probe_password": f"file:{lab.secrets / 'lifeboat_probe'}",
            "replication_user": "replicator",
            "replication_passfile": str(lab.paths.passfile),
            "sslmode": "disable",
        },
        "synchronous": {"policy": shape.policy, "acknowledgements": 1, "voters": list(shape.voters)},
        "routes": [
            {"kind": "dns", "name": "dns", "record": RECORD, "port": lab.node(HOME).port, "ttl_s": 1},
            *(_pooler(lab, node.name) for node in lab.of_kind("pgbouncer")),
        ],
        "reads": {
            "max_lag_s": 5.0,
            "routes": [
                {"kind": "dns", "name": "dns-ro", "record": READ_RECORD, "port": lab.node(HOME).port, "ttl_s": 1},
                *(_balancer(lab, node.name) for node in lab.of_kind("pgpool")),
            ],
        },
        "detection": {
            "interval_s": 0.2,
            "failures": 3,
            "probe_timeout_s": 1.5,
            "quorum": 2,
            "block_s": 5.0,
            "heartbeat": True,
        },
        "approval": {"approvers": ["ana", "ben"], "quorum": 1, "expires_s": 120.0},
        "failover": {"candidates": list(shape.candidates), "cross_region": shape.cross_region},
        **({"backup": backup.declaration(lab), "corruption": {"hold_s": 3.0}} if "backup" in lab.parts else {}),
    }


def _member(lab: Lab, name: str) -> dict[str, Any]:
    node = lab.node(name)
    command = str(lab.paths.control)
    return {
        "name": name,
        "host": node.host,
        "port": node.port,
        "region": node.region,
        # Whoever follows the home primary follows the leader, whoever that is by then.
        "follows": node.upstream if node.upstream != HOME else None,
        "control": control(lab, name),
        "data": {
            "directory": str(lab.paths.data(name)),
            "bin": str(lab.pg_bin),
            "run_as": [command, "exec", name],
            "keep": str(lab.paths.kept(name)),
            **(
                {"backup_config": str(lab.paths.pgbackrest(name)), "socket": str(lab.paths.node(name))}
                if "backup" in lab.parts
                else {}
            ),
        },
    }


def _pooler(lab: Lab, name: str) -> dict[str, Any]:
    node = lab.node(name)
    return {
        "kind": "pgbouncer",
        "name": name,
        "host": node.host,
        "port": node.port,
        "region": node.region,
        "admin_user": "lifeboat",
        "admin_password": f"file:{lab.secrets / 'lifeboat'}",
        "databases": DATABASES,
        "databases_file": str(lab.paths.node(name) / "databases.ini"),
    }


def _balancer(lab: Lab, name: str) -> dict[str, Any]:
    node = lab.node(name)
    return {
        "kind": "pgpool",
        "name": name,
        "host": node.host,
        "port": node.port,
        "region": node.region,
        "pcp_port": pcp_port(lab.base_port),
        "pcp_user": "lifeboat",
        "pcp_password": f"file:{lab.secrets / 'pcp'}",
        "backends": {member.name: number for number, member in config.backends(lab).items()},
    }
