"""Preflight: a sound estate has no finding, and each thing that is wrong with it is named, graded, and once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.facts import Branch
from schemas.ready import CACHE_CHECKS, CHECKS, QUEUE_CHECKS, Server
from tests.unit import estates
from tests.unit.estates import E1, E2, E3, HOSTS, PORT, REGIONS, W1, W2
from tests.unit.ready_cases import CASES, Case, gone
from tests.unit.ready_facts import SEGMENT, Facts, stretch, wal

ROOT = Path(__file__).parents[2]


def test_nothing_is_wrong_with_a_sound_estate() -> None:
    assert Facts().findings() == []


def test_nor_once_another_member_leads() -> None:
    """After a failover: its voters, its followers and its routes are other ones."""
    facts = Facts()
    facts.record = estates.record(1, [E1, E3], leader=E2)
    for name in HOSTS:
        facts.servers[name] = facts.standby(name, follows=f"{HOSTS[W1 if name == W2 else E2]}:{PORT}")
    facts.servers[E2] = Server(
        seen=estates.leader(E2, names='ANY 1 ("pg-east-1","pg-east-3")', streaming=[E1, E3]), **Facts.usual(E2)
    )
    facts.name = facts.name.model_copy(update={"addresses": [HOSTS[E2]]})
    led = {name: pool.model_copy(update={"host": HOSTS[E2]}) for name, pool in facts.pooler.databases.items()}
    facts.pooler = facts.pooler.model_copy(update={"databases": led})
    assert facts.findings() == []


@pytest.mark.parametrize(("check", "severity", "where", "what", "fault"), CASES)
def test_each_fault_is_named_and_nothing_else(
    check: str, severity: str, where: str, what: str, fault: Callable[[Facts], Any]
) -> None:
    facts = Facts()
    fault(facts)
    found = facts.findings()
    assert [each.check for each in found] == [check], found
    assert found[0].severity == severity
    assert where in found[0].where
    assert what in found[0].what
    assert "hunter2" not in found[0].text()


def test_a_region_without_a_worker_is_named_and_the_others_go_on() -> None:
    facts = Facts()
    gone(facts, E3)
    found = facts.findings(without=("eu-west-1",))
    assert [(each.check, each.where) for each in found] == [("worker", "eu-west-1"), ("reached", E3)]


def test_without_any_worker_that_is_all_that_is_said_of_the_estate() -> None:
    found = Facts().findings(without=REGIONS)
    assert [each.check for each in found] == ["worker"] * 3


@pytest.mark.parametrize(("voters", "severity"), [([E1, E2, E3], "warning"), ([], "error")])
def test_who_may_lead_and_can_not_be_stopped(voters: list[str], severity: str) -> None:
    """Without voters nothing else keeps it from acknowledging."""
    facts = Facts()
    facts.declared |= {"synchronous": {"voters": voters}, "failover": {"candidates": [E2, E3]}}
    facts.member(E2, control=None, data=None)
    found = {each.check: each for each in facts.findings()}
    assert found.keys() - {"voters", "synchronous-names"} == {"fence", "data-folder"}
    assert (found["fence"].severity, found["fence"].where) == (severity, E2)


def test_a_file_that_the_leader_has_not_archived_yet_is_not_missing() -> None:
    """Several are archived at once, and a later one may be there first."""
    facts = Facts()
    facts.back(stretches=[stretch(0x20, 0x104), stretch(0x106, 0x106)])
    facts.change(E1, archived=wal(0x104))
    assert facts.findings() == []
    facts.change(E1, archived=wal(0x106))
    assert [each.check for each in facts.findings()] == ["wal-gap"]


def test_wal_is_followed_over_a_failover() -> None:
    """The archive's newest timeline is the living one; what was left has its last file under the next one's name."""
    facts = Facts()
    after = {"timeline": 2, "branches": [Branch(timeline=1, switch=0x100 * SEGMENT + 500)]}
    facts.back(stretches=[stretch(0x20, 0xFF), stretch(0x100, 0x105, 2)], **after)
    assert facts.findings() == []
    facts.back(stretches=[stretch(0x20, 0xFF), stretch(0x101, 0x105, 2)], **after)
    (found,) = facts.findings()
    assert (found.check, found.severity) == ("wal-gap", "error")
    assert wal(0x100, 2) in found.what


def test_nobody_leads() -> None:
    facts = Facts()
    gone(facts, E1)
    checks = {each.check for each in facts.findings()}
    assert checks == {"reached", "leader"}


def test_errors_come_first() -> None:
    facts = Facts()
    facts.change(E1, superuser=True)
    facts.set(E2, fsync="off")
    assert [each.severity for each in facts.findings()] == ["error", "warning"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[3][:20]}")
def test_each_remedy_says_who_must_act(case: Case) -> None:
    facts = Facts()
    case[4](facts)
    for each in facts.findings():
        assert any(word in each.remedy for word in ("owner", "operator", "whoever", "by itself", "wait", "bring")), each


BESIDE = {"topology", "worker", "fence"}
"""Found outside of the table: by the workflow, and above."""


def test_every_check_is_tried() -> None:
    assert {case[0] for case in CASES} | BESIDE == set(CHECKS)


def test_every_check_is_explained_in_the_docs() -> None:
    text = (ROOT / "docs/ready.md").read_text(encoding="utf-8")
    headings = [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")]
    assert headings == [*CHECKS, *CACHE_CHECKS, *QUEUE_CHECKS]
    for part in text.split("\n### ")[1:]:
        title, _, body = part.partition("\n")
        assert len(body.split()) > 12, title
