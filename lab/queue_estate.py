"""The queue in the lab's topology file."""

from __future__ import annotations

from typing import Any

from lab import rabbit
from lab.cache_estate import control
from lab.layout import QUEUE, QUEUE_HOME, QUEUE_RECORD, management_port
from lab.model import Lab, Node


def queue_service(lab: Lab) -> dict[str, Any]:
    """The queue as lab/rabbit.py sets it up; the figures are the estate's own."""
    return {
        "kind": "rabbitmq",
        "name": QUEUE,
        "rto_s": 180.0,
        "rpo_s": 0.0,
        "error_budget_s": 259.2,
        "home": QUEUE_HOME,
        "members": [_member(lab, node) for node in lab.of_kind("rabbitmq")],
        "access": {
            "user": "lifeboat",
            "password": f"file:{lab.secrets / 'queue-lifeboat'}",
            "shovel_user": "shovel",
            "shovel_password": f"file:{lab.secrets / 'queue-shovel'}",
        },
        "vhosts": list(rabbit.QUEUES),
        # `referee` is the lab's own: it looks into what the product has closed.
        "others": ["referee"],
        "clients": [{"name": "app", "password": f"file:{lab.secrets / 'queue-app'}"}],
        "routes": [
            {"kind": "dns", "name": "queue-dns", "record": QUEUE_RECORD, "port": lab.node(QUEUE_HOME).port, "ttl_s": 1}
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


def _member(lab: Lab, node: Node) -> dict[str, Any]:
    # A node starts in 10 s, and longer beside the others.
    orders = {**control(lab, node.name), "timeout_s": 60.0}
    orders["kill"] = [str(lab.paths.control), "kill", node.name]
    return {
        "name": node.name,
        "host": node.host,
        "port": node.port,
        "management_port": management_port(lab.base_port),
        "region": node.region,
        "node": rabbit.erlang_name(node),
        "control": orders,
        "tools": [str(lab.paths.control), "exec", node.name, str(rabbit.with_environment(lab, node))],
    }
