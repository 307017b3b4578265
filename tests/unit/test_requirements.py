"""The figures that bind (objectives, regions, tiers, replicas) are those of topology.yaml and the examples."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from activities.topology import load_topology
from cli.main import app
from schemas.cache import CacheService
from schemas.queue import QueueService
from schemas.topology import DatabaseService, Topology

ROOT = Path(__file__).parents[2]
ESTATE = ROOT / "topology.yaml"
GEOGRAPHIES = ROOT / "examples" / "three-geographies.yaml"
TWO_REGIONS = ROOT / "examples" / "two-regions.yaml"
FILES = [ESTATE, *sorted((ROOT / "examples").glob("*.yaml")), ROOT / "containers" / "topology.yaml"]

OBJECTIVES = {"postgresql": (300, 60), "redis": (120, 0), "rabbitmq": (180, 0)}
"""RTO and RPO in seconds, by kind of service."""
SYSTEM_RTO_S, SYSTEM_RPO_S = 15 * 60, 5 * 60
UPTIME = 0.9999
MONTH_S = 30 * 24 * 3600
TIERS = ["primary", "secondary", "tertiary", "dr"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_each_topology_can_be_used_and_drawn(file: Path) -> None:
    for arguments in (["check"], ["check", "--json"], ["graph"], ["graph", "--as", "mermaid"]):
        done = CliRunner().invoke(app, ["topology", *arguments[:1], str(file), *arguments[1:]])
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_service_has_the_objectives_of_its_kind(file: Path) -> None:
    for service in load_topology(file).services:
        assert (service.rto_s, service.rpo_s) == OBJECTIVES[service.kind]
        assert service.rto_s < SYSTEM_RTO_S
        assert service.rpo_s < SYSTEM_RPO_S
        assert service.error_budget_s == pytest.approx(MONTH_S * (1 - UPTIME))
        if isinstance(service, DatabaseService):
            assert service.failover.max_loss_bytes == 0


def test_the_cache_is_the_estates() -> None:
    (cache,) = [each for each in load_topology(ESTATE).services if isinstance(each, CacheService)]
    for region in ("us-east-1", "us-west-2"):
        assert (len(cache.members_of(region)), len(cache.sentinels_of(region))) == (4, 4)
    monitor = cache.monitor
    assert (monitor.name, monitor.quorum, monitor.down_after_s, monitor.failover_timeout_s, monitor.parallel_syncs) == (
        *("mymaster", 2, 5.0, 10.0),
        1,
    )
    assert cache.access.sentinel_password
    assert cache.master.min_replicas > 0


def test_the_queue_is_the_estates() -> None:
    (queue,) = [each for each in load_topology(ESTATE).services if isinstance(each, QueueService)]
    assert (len(queue.cluster("us-east-1")), len(queue.cluster("us-west-2"))) == (3, 1)


def test_the_regions_of_the_estate() -> None:
    assert [(region.name, region.role, region.tier, region.geography) for region in load_topology(ESTATE).regions] == [
        ("us-east-1", "primary", "primary", "north-america"),
        ("us-west-2", "standby", "secondary", "north-america"),
        ("eu-west-1", "dr", "dr", "europe"),
    ]


def members_of(topology: Topology, region: str) -> list[str]:
    return [member.name for member in topology.services[0].members if member.region == region]


def test_a_primary_with_three_standbys_and_a_standby_cluster_of_the_same_shape() -> None:
    topology = load_topology(ESTATE)
    east, west = members_of(topology, "us-east-1"), members_of(topology, "us-west-2")
    assert (len(east), len(west), members_of(topology, "eu-west-1")) == (4, 4, [])
    service = topology.services[0]
    assert service.home == east[0]
    assert all(service.member(name).follows is None for name in (*east, west[0]))
    assert all(service.member(name).follows == west[0] for name in west[1:])


def test_each_standby_of_the_region_may_be_failed_over_to() -> None:
    topology = load_topology(ESTATE)
    failover = topology.services[0].failover
    near, far = set(members_of(topology, "us-east-1")), set(members_of(topology, "us-west-2"))
    assert set(failover.candidates) - far == near
    # The other region is a person's decision.
    assert set(failover.candidates) & far
    assert failover.cross_region == "ask"


def test_the_loss_of_one_voter_stops_no_write() -> None:
    """The strategy's single synchronous standby is what is out of date in it: two voters, ANY 1."""
    policy = load_topology(ESTATE).services[0].synchronous
    assert (policy.acknowledgements, len(policy.voters) - 1) == (1, 2)


@pytest.mark.parametrize("file", [ESTATE, GEOGRAPHIES], ids=lambda file: file.name)
def test_between_regions_and_geographies_replication_is_asynchronous(file: Path) -> None:
    service = load_topology(file).services[0]
    assert {service.member(name).region for name in service.synchronous.voters} == {service.member(service.home).region}


def test_between_clients_and_servers_there_is_tls() -> None:
    assert load_topology(ESTATE).services[0].access.sslmode == "verify-full"


def test_three_geographies_of_four_tiers() -> None:
    found: dict[str | None, list[tuple[str, str]]] = {}
    for region in load_topology(GEOGRAPHIES).regions:
        found.setdefault(region.geography, []).append((region.name, region.tier))
    names = {
        "north-america": ["us-east-1", "us-west-2", "us-central", "canada"],
        "europe": ["eu-west-1", "eu-central", "eu-north", "uk"],
        "asia-pacific": ["ap-south-1", "ap-east-1", "ap-northeast", "australia"],
    }
    assert found == {each: list(zip(regions, TIERS, strict=True)) for each, regions in names.items()}


def test_a_geographys_last_tier_is_cold() -> None:
    topology = load_topology(GEOGRAPHIES)
    cold = [region.name for region in topology.regions if region.tier == "dr"]
    assert all(members_of(topology, name) == [] for name in cold)
    assert all(region.role == "dr" for region in topology.regions if region.name in cold)


def test_two_regions_one_standby_and_no_pooler() -> None:
    topology = load_topology(TWO_REGIONS)
    service = topology.services[0]
    assert (len(topology.regions), len(service.members), service.gates()) == (2, 2, [])
    assert service.synchronous.policy == "available"
