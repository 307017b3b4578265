"""Before a restore the leader archives what it wrote last: who that is, is not for one worker's eyes alone to say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from temporalio import workflow

from schemas.restores import Archived
from tests.unit.estates import E1, service
from workflows.restoring import Restoring

ARCHIVED = Archived(file="00000001000000000000000A", timeline=1, segment_bytes=1 << 24, system="1")


class Looked(Restoring):
    """What each look sees of who leads."""

    of_before = False
    """Whether its history is of the time when only one worker looked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, by_one: str | None, by_all: str | None) -> None:
        super().__init__()
        monkeypatch.setattr(workflow, "patched", lambda _: not self.of_before)
        self.by_one, self.by_all = by_one, by_all
        self.estate = SimpleNamespace(service=service())  # type: ignore[assignment]
        self.looks: list[str] = []

    async def observe(self) -> Any:
        self.looks.append("one")
        return self.seen(self.by_one)

    async def observe_everywhere(self) -> Any:
        self.looks.append("all")
        return self.seen(self.by_all)

    def seen(self, leader: str | None) -> Any:
        return SimpleNamespace(led_by=leader, record=None, members=[])

    async def do(self, activity: Any, order: Any, **more: Any) -> Any:
        assert order.leader == E1
        return ARCHIVED

    def note(self, text: str) -> None:
        self.journal.append(text)


async def test_a_worker_that_was_out_of_breath_does_not_leave_the_newest_out(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Looked(monkeypatch, None, E1)
    assert await run.archive() == ARCHIVED
    assert run.looks == ["one", "all"]
    assert run.journal == []


async def test_one_look_is_enough_where_somebody_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Looked(monkeypatch, E1, None)
    assert await run.archive() == ARCHIVED
    assert run.looks == ["one"]


async def test_where_nobody_leads_for_anybody_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Looked(monkeypatch, None, None)
    assert await run.archive() is None
    assert run.journal == ["nobody leads who could archive what was written last"]


async def test_a_run_of_before_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Looked(monkeypatch, None, E1)
    run.of_before = True
    assert await run.archive() is None
    assert run.looks == ["one"]
