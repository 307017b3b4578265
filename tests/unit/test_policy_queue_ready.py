"""The queue's preflight: facts in, findings out; each check is tried, and each remedy says who must act."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from schemas.facts import EpochRecord
from schemas.queue_facts import ClusterFacts, Mirror, QueueEstate, QueueObservation
from schemas.ready import QUEUE_CHECKS, SHARED, EngineView, Finding, QueueRegionView
from tests.unit.test_policy_queue import EAST, NOW, broker, east, queue, service, west
from workflows.policy.queue_ready import judge_queue

WATCHED = EngineView(watched=True, probing=["us-east-1"])
REGIONS = ("us-east-1", "us-west-2", "eu-west-1")
CONTROL = {"stop": ["true"], "start": ["true"]}
TOLD = Mirror(region="us-east-1", at=NOW, digest="d", counts={})
OLD = TOLD.model_copy(update={"digest": "old"})


def declared(**changes: Any) -> dict[str, Any]:
    """A service of which nothing is missing, but for what is said here."""
    members = [
        {
            **member.model_dump(exclude={"control", "tools"}),
            "control": CONTROL,
            "tools": ["true"],
        }
        for member in service().members
    ]
    return {"members": members, "clients": [{"name": "app", "password": "env:APP"}], **changes}


def findings(
    *clusters: ClusterFacts,
    given: dict[str, Any] | None = None,
    engine: EngineView | None = WATCHED,
    regions: tuple[str, ...] = REGIONS,
    mirror: Mirror | None = TOLD,
    record: EpochRecord | None = None,
    unread: str = "",
) -> list[Finding]:
    held = record or EpochRecord(epoch=3, run="r", leader=EAST[0], w=0, voters=[])
    seen = QueueObservation(
        record=None if unread else held,
        epoch_error=unread,
        clusters=list(clusters) or [serving(), west()],
        mirrors={"us-west-2": mirror} if mirror is not None else {},
    )
    estate = QueueEstate.model_construct(
        service=service(**(given or declared())), zone=None, region="us-east-1", vantages=list(REGIONS)
    )
    return judge_queue(estate, [QueueRegionView(region=region, seen=seen) for region in regions], engine)


def serving(**more: Any) -> ClusterFacts:
    return east(**{"digest": "d", **more})


def without(field: str) -> dict[str, Any]:
    """The home lacks it."""
    given = declared()
    given["members"][0].pop(field)
    return given


def in_one_region() -> dict[str, Any]:
    return declared(members=declared()["members"][:3])


def one_node() -> list[Finding]:
    given = declared()
    given["members"] = [given["members"][0], given["members"][3]]
    lone = queue(members=[f"rabbit@{EAST[0]}"], online=[f"rabbit@{EAST[0]}"], size=1)
    return findings(serving(brokers=[broker(EAST[0])], queues=[lone]), west(), given=given)


def with_brokers(**more: Any) -> list[Finding]:
    return findings(serving(brokers=[broker(EAST[0], **more), *map(broker, EAST[1:])]), west())


def silent() -> list[Finding]:
    mute = broker(EAST[1], False).model_copy(update={"listens": True})
    return findings(serving(brokers=[broker(EAST[0]), mute, broker(EAST[2])]), west())


def test_nothing_is_wrong_when_all_is_well() -> None:
    assert findings() == []


Case = tuple[str, str, str, str, Callable[[], list[Finding]]]
TWO = [f"rabbit@{name}" for name in EAST[:2]]
SERVER_NAMED = queue("classic").model_copy(update={"name": "amq.gen-x"})
NOBODY = EpochRecord(epoch=3, run="r", leader="somebody", w=0, voters=[])


def of_east(**more: Any) -> Callable[[], list[Finding]]:
    return lambda: findings(serving(**more), west())


def of_west(**more: Any) -> Callable[[], list[Finding]]:
    return lambda: findings(serving(), west(**more))


def given(**more: Any) -> Callable[[], list[Finding]]:
    return lambda: findings(given=declared(**more))


CASES: list[Case] = [
    ("alarms", "error", "us-east-1", "memory of", lambda: with_brokers(alarms=["memory of rabbit@rabbit-east-1"])),
    ("alarms", "error", "us-west-2", "disk", of_west(brokers=[broker("rabbit-west-1", alarms=["disk of x"])])),
    ("partition", "error", "us-east-1", "partitioned", lambda: with_brokers(partitions=["rabbit@rabbit-east-2"])),
    ("shovels", "error", "us-east-1", "no shovels", lambda: with_brokers(without_shovels=["rabbit@rabbit-east-2"])),
    ("shovels", "warning", "us-west-2", "has left", of_west(shovels=["lifeboat-x"])),
    ("clients", "error", "us-west-2", "lets clients in", of_west(clients_let_in=True)),
    ("clients", "error", "us-east-1", "no client in", of_east(clients_let_in=False)),
    ("clients", "warning", "counting-queue", "not shown", given(clients=[{"name": "app"}])),
    ("definitions", "error", "us-west-2", "defines now", lambda: findings(mirror=None)),
    (
        "definitions",
        "error",
        "us-west-2",
        "a queue",
        lambda: findings(mirror=TOLD.model_copy(update={"digest": "old"})),
    ),
    ("definitions", "error", "us-west-2", "was told", of_west(differ=["queue counting counts is another in it"])),
    ("reached", "error", "us-west-2", "can't be read", of_west(read=False)),
    ("partition", "error", "us-east-1", "does not see", lambda: with_brokers(running=[f"rabbit@{EAST[0]}"])),
    ("members", "error", "us-east-1", "does not answer", of_east(queues=[queue(ready=None)])),
    ("immovable", "error", "us-east-1", "no client in", of_east(strangers=["guest"])),
    ("immovable", "error", "us-east-1", "came back", of_east(queues=[queue(delivery_limit=3)])),
    ("immovable", "error", "us-east-1", "named by its broker", of_east(queues=[SERVER_NAMED])),
    ("standby", "warning", "us-west-2", "holds 5", of_west(known=5)),
    ("standby", "warning", "counting-queue", "one cluster", lambda: findings(serving(), given=in_one_region())),
    ("members", "warning", "counting/counts", "rabbit-east-3", of_east(queues=[queue(online=TWO)])),
    ("members", "warning", "counting/counts", "alone", of_east(queues=[queue("classic", members=[], online=[])])),
    ("members", "warning", "us-east-1", "1 nodes", one_node),
    ("mirrored", "warning", "counting/counts", "ha-all", of_east(queues=[queue("mirrored")])),
    ("persistence", "warning", "counting/counts", "7 messages", of_east(transient={"counting/counts": 7})),
    ("mandatory", "warning", "us-east-1", "nowhere to go", of_east(dropped=3)),
    ("immovable", "error", "us-east-1", "stream", of_east(queues=[queue("stream")])),
    ("immovable", "error", "us-east-1", "works in", of_east(foreign=["shovel x in counting"])),
    ("tools", "warning", EAST[0], "no member is added", lambda: findings(given=without("tools"))),
    ("fence", "warning", EAST[0], "old clients", lambda: findings(given=without("control"))),
    ("reached", "error", EAST[1], "not reached", of_east(brokers=[broker(name, name != EAST[1]) for name in EAST])),
    ("reached", "error", EAST[1], "speaks AMQP", silent),
    ("reached", "error", "us-east-1", "can't be read", of_east(read=False)),
    ("watch", "error", "counting-queue", "not watched", lambda: findings(engine=EngineView(watched=False))),
    ("busy", "warning", "counting-queue", "a run", lambda: findings(engine=EngineView(watched=True, holder="a run"))),
    ("worker", "error", "us-west-2", "no worker", lambda: findings(regions=("us-east-1", "eu-west-1"))),
    ("epoch-record", "error", "counting-queue", "store is away", lambda: findings(unread="the store is away")),
    ("leader", "error", "counting-queue", "no member", lambda: findings(record=NOBODY)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[3]}")
def test_each_check(case: Case) -> None:
    check, severity, where, says, found = case
    matching = [each for each in found() if each.check == check and where in each.where and says in each.what]
    assert [each.severity for each in matching] == [severity], found()
    assert any(word in matching[0].remedy for word in ("owner", "operator", "whoever", "wait"))


def test_every_check_of_a_queue_is_tried() -> None:
    assert {case[0] for case in CASES} | {"topology"} == {*QUEUE_CHECKS, *SHARED, "persistence"}
