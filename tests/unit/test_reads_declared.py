"""Read-only routes that can't be used are named by their place, with what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from activities.pcp import answer_to
from activities.topology import load_topology
from schemas.failures import TopologyInvalid
from tests.unit.test_topology import SMALL

READS = """\
    reads:
      routes:
        - { kind: dns, name: read-only, record: counting-ro.db.example.com, port: 5432 }
        - kind: pgpool
          name: pgpool-east
          host: pgpool-1.example.internal
          port: 5432
          region: us-east-1
          pcp_password: env:PCP
          backends: { pg-east-1: 1, pg-east-2: 2, pg-west-1: 3 }
"""
PGPOOL = "- kind: pgpool\n"


def load(tmp_path: Path, *changes: tuple[str, str]) -> list[str]:
    text = SMALL + READS
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    file = tmp_path / "topology.yaml"
    file.write_text(text, encoding="utf-8")
    try:
        load_topology(file)
    except TopologyInvalid as error:
        return error.detail.replace(f"{tmp_path}/", "").splitlines()
    return []


def test_defaults(tmp_path: Path) -> None:
    assert load(tmp_path) == []
    reads = load_topology(tmp_path / "topology.yaml").services[0].reads
    assert reads is not None
    assert (reads.max_lag_s, reads.fallback, reads.members) == (30, "leader", [])
    assert [route.name for route in reads.names()] == ["read-only"]
    assert reads.pgpools()[0].pcp_port == 9898


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "    reads:\n",
            "    reads:\n      members: [pg-east-9]\n",
            "reads.members.0: pg-east-9 is not a member; one of",
        ),
        ("name: read-only", "name: primary", "reads.routes.0.name: primary is declared twice"),
        ("counting-ro.db", "counting.db", "reads.routes.0.record: counting.db.example.com is that of primary as well"),
        ("counting-ro.db.example.com", "ro.example.org", "reads.routes.0.record: ro.example.org is not in the zone"),
        ("pg-west-1: 3 }", "pg-west-9: 3 }", "reads.routes.1.backends.pg-west-9: pg-west-9 is not a member"),
        (", pg-west-1: 3 }", " }", "reads.routes.1.backends: pg-west-1 may be read, and no backend stands for it"),
        (
            "pg-west-1: 3 }",
            "pg-west-1: 2 }",
            "reads.routes.1.backends.pg-west-1: 2 is the backend of pg-east-2 as well",
        ),
        (
            "region: us-east-1\n          pcp",
            "region: mars\n          pcp",
            "reads.routes.1.region: mars is not a region",
        ),
        ("env:PCP", "s3cr3t", "never the secret itself"),
        ("    reads:\n", "    reads:\n      fallback: primary\n", "reads.fallback"),
        ("    reads:\n", "    reads:\n      max_lag: 3\n", "did you mean `max_lag_s`"),
        ("kind: pgpool", "kind: pgpol", "did you mean `pgpool`"),
    ],
)
def test_each_fault_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    found = load(tmp_path, (old, new))
    assert any(told in line for line in found), found
    assert all("topology.yaml:" in line for line in found), found
    assert "s3cr3t" not in "\n".join(found)


def test_without_the_leader_as_fallback_it_needs_no_backend(tmp_path: Path) -> None:
    changes = (
        ("    reads:\n", "    reads:\n      members: [pg-east-2]\n      fallback: refuse\n"),
        ("{ pg-east-1: 1, pg-east-2: 2, pg-west-1: 3 }", "{ pg-east-2: 2 }"),
    )
    assert load(tmp_path, *changes) == []


def test_the_password_is_hashed_as_pgpool_does() -> None:
    """md5(md5(md5(password) + user) + salt), by md5sum(1)."""
    assert answer_to(b"salt", "lifeboat", "secret") == "dcafa61075528c1d4b17e7e3c4e20719"
