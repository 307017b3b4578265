"""The cache in the lab's topology file."""

from __future__ import annotations

from typing import Any

from lab.layout import CACHE, CACHE_HOME, CACHE_RECORD, MONITORED
from lab.model import Lab, Node


def control(lab: Lab, name: str) -> dict[str, Any]:
    """The commands of a node's control."""
    command = str(lab.paths.control)
    return {
        "start": [command, "start", name],
        "stop": [command, "stop", name],
        "autostart_on": [command, "autostart-on", name],
        "autostart_off": [command, "autostart-off", name],
    }


def cache_service(lab: Lab) -> dict[str, Any]:
    """The cache as lab/cache.py sets it up; the figures are the estate's own."""
    return {
        "kind": "redis",
        "name": CACHE,
        "rto_s": 120.0,
        "rpo_s": 0.0,
        "error_budget_s": 259.2,
        "home": CACHE_HOME,
        "members": [{**_place(node), "control": control(lab, node.name)} for node in lab.of_kind("redis")],
        "sentinels": [_place(node) for node in lab.of_kind("sentinel")],
        "access": {
            "user": "lifeboat",
            "password": f"file:{lab.secrets / 'cache-lifeboat'}",
            "sentinel_user": "lifeboat",
            "sentinel_password": f"file:{lab.secrets / 'sentinel-lifeboat'}",
            "monitor_user": "sentinel",
            "monitor_password": f"file:{lab.secrets / 'cache-sentinel'}",
            "replication_user": "replicator",
            "replication_password": f"file:{lab.secrets / 'cache-replicator'}",
        },
        "monitor": {
            "name": MONITORED,
            "quorum": 2,
            "down_after_s": 5.0,
            "failover_timeout_s": 10.0,
            "parallel_syncs": 1,
        },
        "master": {"min_replicas": 1, "max_lag_s": 2},
        "routes": [
            {"kind": "dns", "name": "cache-dns", "record": CACHE_RECORD, "port": lab.node(CACHE_HOME).port, "ttl_s": 1}
        ],
        "detection": {
            "interval_s": 0.2,
            "failures": 3,
            "probe_timeout_s": 1.5,
            "quorum": 2,
            "block_s": 5.0,
        },
        "approval": {"approvers": ["ana", "ben"], "quorum": 1, "expires_s": 120.0},
    }


def _place(node: Node) -> dict[str, Any]:
    return {"name": node.name, "host": node.host, "port": node.port, "region": node.region}
