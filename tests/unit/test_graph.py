"""The drawings of a topology: everything that is declared is in them, once."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from activities.topology import load_topology
from cli.graph import mermaid, role_of, tree
from schemas.topology import DatabaseService

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "topology.yaml", *sorted((ROOT / "examples").glob("*.yaml"))]


def drawn(topology):
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(tree(topology))
    return console.file.getvalue()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
class TestShipped:
    def test_the_tree_has_every_region_member_and_route(self, file):
        topology = load_topology(file)
        text = drawn(topology)
        for region in topology.regions:
            assert re.search(rf"[├└]── {re.escape(region.name)}  ", text)
        for service in topology.services:
            for member in service.members:
                assert len(re.findall(rf"── {re.escape(member.name)}  ", text)) == 1
            for route in service.dns_routes():
                assert route.record in text
            for route in service.gates() if isinstance(service, DatabaseService) else []:
                assert len(re.findall(rf"── {re.escape(route.name)}  ", text)) == 1

    def test_the_flowchart_declares_what_its_arrows_name(self, file):
        text = mermaid(load_topology(file))
        declared = set(re.findall(r"^ *(\w+)[\[(]", text, re.MULTILINE))
        named = {
            name
            for pair in re.findall(r"^ *(\w+) (?:-->|-\.->|==>|-\. \w+ \.->) (\w+)$", text, re.MULTILINE)
            for name in pair
        }
        assert named
        assert named <= declared
        assert text.count("subgraph") == len(re.findall(r"^ *end$", text, re.MULTILINE))


def test_roles():
    service = load_topology(FILES[0]).services[0]
    roles = {member.name: role_of(service, member) for member in service.members}
    assert roles["pg-east-1"] == "leads when all is well"
    assert roles["pg-east-2"] == "voter"
    assert roles["pg-east-4"] == "asynchronous"
    assert roles["pg-west-2"] == "cascades from pg-west-1, never promoted"


def test_three_geographies_of_four_tiers():
    topology = load_topology(ROOT / "examples" / "three-geographies.yaml")
    tiers = {}
    for region in topology.regions:
        tiers.setdefault(region.geography, []).append(region.tier)
    assert len(tiers) == 3
    assert all(found == ["primary", "secondary", "tertiary", "dr"] for found in tiers.values())


def test_an_estate_in_aws():
    text = drawn(load_topology(ROOT / "examples" / "aws.yaml"))
    for what in (
        "zone db.example.com  Route 53, hosted zone Z0123456789ABCDEFGHIJ",
        "epoch of counting-db  in s3://example-lifeboat",
        "haproxy-east  HAProxy of counting-db",
        "counting-api  configuration of counting-db",
    ):
        assert what in text
    assert "member_pg_2d_east_2d_1 -. told .-> route_counting_2d_web" in mermaid(
        load_topology(ROOT / "examples" / "aws.yaml")
    )
