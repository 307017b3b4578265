"""A cut-over's own steps and undos, as orders to activities: in which order, and what goes on where one fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError, FailureError

from schemas.cut_over import CutOverRequest
from schemas.facts import EpochRecord
from schemas.rejoin import FolderFacts
from schemas.reports import Report
from schemas.requests import Verb
from tests.unit.estates import E1, E2, E3, service
from workflows import pitr_restore
from workflows.cut_over import CutOver
from workflows.pitr_restore import PitrRestore
from workflows.runbook import Ended

CONTROL = {"kind": "command", "start": ["a"], "stop": ["b"]}
DATA = {"directory": "/d", "bin": "/b", "keep": "/k", "socket": "/s"}
RECORD = EpochRecord(epoch=7, run="r", leader=E1, w=1, voters=[E2, E3])


class Told(CutOver):
    """What it orders is written down, and fails where that is wanted."""

    def __init__(self, *failing: str, **answers: Any) -> None:
        super().__init__()
        self.failing, self.answers = failing, answers
        self.ordered: list[str] = []
        self.limits: dict[str, float] = {}
        declared = service()
        members = [
            type(each).model_validate(each.model_dump() | {"control": CONTROL, "data": DATA})
            for each in declared.members
        ]
        declared = declared.model_copy(update={"members": members})
        self.estate = SimpleNamespace(service=declared, zone=None)  # type: ignore[assignment]
        self.service_name, self.reason = "counting-db", "a test"
        self.record = self.before = RECORD
        self.suspect, self.candidate, self.touched = E1, E2, True

    async def do(self, activity: Any, order: Any, **more: Any) -> Any:
        name = f"{activity.__name__} {getattr(order, 'member', '')}".strip()
        self.ordered.append(name)
        self.limits[name] = more.get("total", 30.0)
        if name in self.failing:
            raise ApplicationError(f"{name} failed", type="Failed")
        answer = self.answers.get(activity.__name__)
        return answer(order) if callable(answer) else answer

    def note(self, text: str) -> None:
        self.journal.append(text)

    async def restore_set(self) -> str:
        return ""

    async def write_through_routes(self, leader: str) -> list[Any]:
        self.ordered.append("write_through_routes")
        return []

    async def update_reads(self, leader: str) -> None:
        pass

    async def start_rejoin(self, member: str, *, rebuild: str = "") -> str:
        self.ordered.append(f"rejoin {member}")
        return "a-run"


async def test_clients_wait_for_nothing_of_the_candidates_when_it_is_undone() -> None:
    """Its node may be dead: what stops it comes after whoever led serves again, and its rejoin comes all the same."""
    run = Told("stop_node pg-east-2", stop_node=SimpleNamespace(done=True))
    await run.after_undo()
    assert run.ordered == ["write_through_routes", "stop_node pg-east-2", "rejoin pg-east-2"]
    assert any("pg-east-2" in each for each in run.journal)


@pytest.mark.parametrize("failing", ["hold_folder pg-east-1", "start_node pg-east-1", ""])
async def test_whoever_led_is_started_and_let_go_whichever_fails(failing: str) -> None:
    run = Told(failing)
    if failing:
        with pytest.raises(ApplicationError, match=failing):
            await run.let_back()
    else:
        await run.let_back()
    assert run.ordered == ["start_node pg-east-1", "hold_folder pg-east-1"]


async def test_the_epoch_of_the_undo_is_tried_for_as_long_as_what_rests_on_it() -> None:
    run = Told(claim_epoch=RECORD)
    run.number = lambda *_: None  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workflows.procedure.workflow.info", lambda: SimpleNamespace(workflow_id="r"))
        patch.setattr("workflows.procedure.ClaimOrder", lambda **_: None)
        await run.claim_for_undo()
    assert run.limits == {"claim_epoch": 300}


async def test_rows_are_asked_for_in_a_limited_time_and_not_past_an_abort() -> None:
    """Clients wait meanwhile."""
    run, given = Told(look_at_newest_rows=[], ask_leader=[]), []

    async def unless_aborted(work: Any) -> Any:
        given.append(work)
        return await work

    run.unless_aborted = unless_aborted  # type: ignore[method-assign]
    run.request = CutOverRequest.model_construct(newest=[])
    await run.ask_rows()
    assert run.ordered == ["look_at_newest_rows pg-east-2", "ask_leader pg-east-2"]
    assert len(given) == 2
    assert all(limit <= 600 for limit in run.limits.values())


async def test_who_is_held_is_not_rebuilt_and_is_told() -> None:
    def folder(order: Any) -> FolderFacts:
        return FolderFacts(member=order.member, running=False, held="what it wrote" if order.member == E3 else "")

    run, asked = Told(look_at_folder=folder), []

    async def child(procedure: str, request: Any, name: str) -> Any:
        asked.append((request.member, request.release))
        return SimpleNamespace(summary="back", outcome="done")

    run.child = child  # type: ignore[method-assign]
    moment = SimpleNamespace(text=lambda: "12:00")
    run.request = CutOverRequest.model_construct(moment=moment)
    await run.rebuild()
    assert E3 not in [member for member, _ in asked]
    assert len(asked) == 3
    assert {release for _, release in asked} == {""}
    (left,) = run.left
    assert left.startswith(f"{E3} is stopped, and keeps what it wrote")


@pytest.mark.parametrize(
    ("found", "started"),
    [
        ({"standby": True}, "start_standby pg-east-2"),
        ({"stamp": 7, "state": "in production"}, "start_node pg-east-2"),
        ({"stamp": 6, "state": "in production"}, ""),
    ],
)
async def test_a_candidate_that_ended_is_started_or_a_person_told(found: dict[str, Any], started: str) -> None:
    run = Told(look_at_folder=FolderFacts(member=E2, running=False, **found))
    error = await run.started_for_a_retry(ApplicationError("not reached", type="MemberUnreachable"))
    assert error.type == "MemberUnreachable"
    assert "not reached" in error.message
    assert run.ordered[1:] == ([started] if started else [])
    assert ("start it by hand, then `retry`" in error.message) == (not started)


async def test_an_abort_is_sent_until_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal to a run that has not begun finds nobody."""
    run, sent = PitrRestore(), []
    run._abort = Verb(by="ana")
    run.followed_by = ["the-cut-over"]
    run.service_name, run.reason = "counting-db", "a test"
    run.backup = run.moment = run.repository = run.proved = run.newest_rows = None  # type: ignore[assignment]
    run.estate = SimpleNamespace(service=SimpleNamespace(backup=SimpleNamespace(rate_bytes_s=1.0)))  # type: ignore[assignment]
    ended = pitr_restore.asyncio.Event()

    async def child(*_: Any) -> Any:
        await ended.wait()
        return Report.model_construct(
            new_primary=None, outcome="aborted", summary="", unprotected=[], followed_by=[], tasks=[]
        )

    async def signal(name: str, given: Verb) -> None:
        sent.append(name)
        if len(sent) < 3:
            raise FailureError("not found")
        ended.set()

    async def wait_condition(holds: Any, timeout: Any = None) -> None:
        if timeout is not None and not holds():
            raise TimeoutError

    run.child = child  # type: ignore[method-assign]
    monkeypatch.setattr(pitr_restore, "CutOverRequest", lambda **_: None)
    handle = SimpleNamespace(signal=signal)
    monkeypatch.setattr(pitr_restore.workflow, "get_external_workflow_handle", lambda _: handle)
    monkeypatch.setattr(pitr_restore.workflow, "wait_condition", wait_condition)
    with pytest.raises(Ended):
        async with pitr_restore.asyncio.timeout(5):
            await run.cut_over(SimpleNamespace(candidate=None))  # type: ignore[arg-type]
    assert sent == ["abort"] * 3
