"""The cache's preflight: facts in, findings out; each check is tried, and each remedy says who must act."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from schemas.ready import CACHE_CHECKS, SHARED, CacheRegionView, EngineView, Finding
from tests.unit.cache_estates import E1, E2, EAST, W1, Picture, estate
from workflows.policy.cache_ready import judge_cache

WATCHED = EngineView(watched=True, probing=[EAST])
S1, S2, SW = "sentinel-east-1", "sentinel-east-2", "sentinel-west-1"


def findings(
    picture: Picture,
    *,
    declared: dict[str, object] | None = None,
    open_to_all: list[str] | None = None,
    engine: EngineView | None = WATCHED,
    regions: tuple[str, ...] = ("us-east-1", "us-west-2", "eu-west-1"),
) -> list[Finding]:
    views = [CacheRegionView(region=region, seen=picture.seen(), open_to_all=open_to_all or []) for region in regions]
    return judge_cache(estate(**(declared or {})), views, engine)


def test_nothing_is_wrong_when_all_is_well() -> None:
    assert findings(Picture()) == []


Case = tuple[str, str, str, str, Callable[[], list[Finding]]]
CASES: list[Case] = [
    ("cluster-mode", "error", E2, "Redis Cluster", lambda: findings(Picture().change(E2, cluster=True))),
    ("persistence", "error", E2, "keeps nothing", lambda: findings(Picture().change(E2, aof=False, rdb=False))),
    ("persistence", "warning", E2, "append-only", lambda: findings(Picture().change(E2, aof=False))),
    ("min-replicas", "error", E1, "is 99", lambda: findings(Picture().change(E1, min_replicas=99))),
    ("min-replicas", "warning", E2, "is 3", lambda: findings(Picture().change(E2, min_replicas=3))),
    ("min-replicas", "error", E2, "go on", lambda: findings(Picture().change(E2, min_replicas=0))),
    (
        "min-replicas",
        "error",
        "counting-cache",
        "is 0",
        lambda: findings(Picture(), declared={"master": {"min_replicas": 0}}),
    ),
    ("replica-priority", "warning", E2, "never elects", lambda: findings(Picture().change(E2, priority=0))),
    ("replica-priority", "error", W1, "stands by", lambda: findings(Picture().change(W1, priority=100))),
    ("replica-priority", "error", W1, "announced", lambda: findings(Picture().change(W1, announced=True))),
    ("replication", "error", W1, "directly", lambda: findings(Picture().change(W1, follows=E1))),
    ("replication", "error", E2, "no link", lambda: findings(Picture().change(E2, link_up=False))),
    ("replication", "error", E2, "history", lambda: findings(Picture().change(E2, history="b" * 40))),
    ("no-password", "error", E2, "anybody", lambda: findings(Picture(), open_to_all=[E2])),
    ("sentinel-quorum", "error", S1, "NOQUORUM", lambda: findings(Picture().change(S1, quorum_error="NOQUORUM"))),
    ("sentinel-quorum", "warning", S1, "knows 1", lambda: findings(Picture().change(S1, others=1))),
    ("sentinels-agree", "error", SW, "stands by", lambda: findings(Picture().change(SW, watches=True, master=W1))),
    ("sentinels-agree", "error", S1, "astray", lambda: findings(Picture().change(S1, master=E2))),
    ("sentinel-settings", "warning", S1, "30000", lambda: findings(Picture().change(S1, down_after_s=30.0))),
    ("reached", "error", E2, "not reached", lambda: findings(Picture().gone(E2))),
    ("reached", "error", S2, "not reached", lambda: findings(Picture().gone(S2))),
    ("leader", "error", "counting-cache", "is a replica", lambda: findings(Picture().change(E1, role="replica"))),
    ("watch", "error", "counting-cache", "not watched", lambda: findings(Picture(), engine=EngineView(watched=False))),
    (
        "busy",
        "warning",
        "counting-cache",
        "works on it",
        lambda: findings(Picture(), engine=EngineView(watched=True, holder="a run")),
    ),
    ("worker", "error", "us-west-2", "no worker", lambda: findings(Picture(), regions=("us-east-1", "eu-west-1"))),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[3]}")
def test_each_check(case: Case) -> None:
    check, severity, where, says, found = case
    matching = [each for each in found() if each.check == check and where in each.where and says in each.what]
    assert [each.severity for each in matching] == [severity], found()
    assert any(word in matching[0].remedy for word in ("owner", "operator", "whoever", "by itself", "wait", "bring"))


def test_no_record_is_found() -> None:
    picture = Picture()
    picture.record = None
    assert "epoch-record" in {each.check for each in findings(picture)}


def test_a_member_without_control_is_found() -> None:
    service = estate().service
    members = [member.model_copy(update={"control": None}) for member in service.members]
    found = findings(Picture(), declared={"members": [each.model_dump() for each in members]})
    assert {each.check for each in found} == {"fence"}


def test_every_check_of_a_cache_is_tried() -> None:
    beside = {"topology", "fence", "epoch-record"}
    assert {case[0] for case in CASES} | beside == {*CACHE_CHECKS, *SHARED}
