"""What the activities of a preflight make of what they read."""

from __future__ import annotations

import pytest

from activities.readiness import references
from activities.readiness_server import application_name
from activities.topology import load_topology


def test_every_reference_of_the_topology_is_resolved_beforehand() -> None:
    topology = load_topology("topology.yaml")
    found = set(references(topology))
    assert {"env:LIFEBOAT_TSIG_KEY", "env:LIFEBOAT_PG_PASSWORD", "env:LIFEBOAT_PROBE_PASSWORD"} <= found
    assert {"file:/etc/lifeboat/secrets/ssh", "file:/etc/lifeboat/secrets/pgbouncer-east"} <= found


@pytest.mark.parametrize(
    ("conninfo", "cluster", "name"),
    [
        ("host=a application_name=pg-east-2 port=1", "x", "pg-east-2"),
        ("application_name = 'pg-east-2'", "x", "pg-east-2"),
        ("host=a fallback_application_name=y", "x", "x"),
        ("host=a", "", "walreceiver"),
    ],
)
def test_what_a_receiver_calls_itself(conninfo: str, cluster: str, name: str) -> None:
    assert application_name(conninfo, cluster) == name
