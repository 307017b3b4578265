"""Returning a member: what brings a stopped server back as a standby, for the rejoin and the switchover."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import data_folder, fencing, node, receipts
    from schemas.failures import JobFailed, NodeRuns, NoRoom, NotYet
    from schemas.orders import FollowOrder, NodeOrder, NodeResult
    from schemas.receipts import Receipt
    from schemas.rejoin import (
        Divergence,
        DivergenceOrder,
        Examination,
        FolderOrder,
        FolderResult,
        Return,
        ReturnOrder,
    )
    from workflows.database_protect import Protecting
    from workflows.policy.rejoin import how_to_return, is_apart, make_receipt, newest, room_for, verdict_on
    from workflows.reasons import kind_of, reason_of
    from workflows.runbook import WAIT_S

STOPS = 4
"""How often a member that starts by itself is stopped anew, before the run parks."""
START_ATTEMPTS = 8


class Returning(Protecting):
    """Stop, keep, rewind or rebuild, start, confirm."""

    def __init__(self) -> None:
        super().__init__()
        self.member = ""
        self.predicted = ""
        """The verdict of the promotion at which this member was left behind, as whoever started this run knew it."""
        self.on_record = ""
        """The verdict of the newest promotion; that of this member's only if it was left behind then."""
        self.how: Return | None = None
        self.loss: Receipt | None = None
        self.anew = ""
        """Why it is copied in any case,"""
        self.released = ""
        """and why that may erase a folder that is held, in a person's words."""
        self.changed: Return | None = None
        """How its folder was changed: a run that is overtaken after that finds nothing more to do to it."""
        self.in_vain = False
        """It was started as it is, and did not come up, or did not stream."""

    def folder_order(self) -> dict[str, object]:
        return {
            "service": self.estate.service,
            "member": self.member,
            "zone": self.estate.zone,
            "run": self.record.run,
            "epoch": self.record.epoch,
            "leader": self.record.leader,
        }

    async def stop_member(self) -> NodeResult:
        """Stopped, and kept from starting: from here only this run starts it."""
        member = self.estate.service.member(self.member)
        longest = max(45.0, member.control.longest_s() + 5) if member.control else 45.0
        order = NodeOrder.model_validate({k: v for k, v in self.folder_order().items() if k != "leader"})
        stopped = await self.do(node.stop_node, order, limit=longest, total=3 * longest)
        if not stopped.done:
            raise ApplicationError(str(NotYet(stopped.evidence)), type=NotYet.__name__)
        return stopped

    async def keep_what_only_it_has(self) -> Return:
        """Examine the stopped folder, keep and count its divergent WAL, and say how it comes back."""
        for left in reversed(range(STOPS)):
            try:
                return await self._keep()
            except ActivityError as error:
                if kind_of(error) != NodeRuns.__name__ or not left:
                    raise
                self.note(reason_of(error))
                await self.stop_member()
        raise AssertionError("the last round returns or raises")

    async def _keep(self) -> Return:
        order = FolderOrder.model_validate(self.folder_order())
        found: Examination = await self.do(data_folder.examine_folder, order, limit=30, total=120)
        divergence: Divergence | None = None
        if found.folder.major and is_apart(found):
            where = {name: getattr(found.folder, name) for name in ("timeline", "segment_bytes", "checkpoint")}
            kept = DivergenceOrder.model_validate({**self.folder_order(), **where, "fork": found.parted})
            divergence = await self.do(receipts.keep_divergence, kept, limit=3600, total=None)
        # A folder whose rewind has begun says nothing any more: what was counted before stands.
        predicted = verdict_on(found, self.predicted, self.on_record)
        self.loss = newest(self.loss, make_receipt(found, divergence, predicted))
        self.how = how_to_return(found, divergence, in_vain=self.in_vain, anew=self.anew, released=self.released)
        return self.how

    async def return_member(self) -> FolderResult:
        """Behind the fence, the folder is made a standby's. A rewind that fails leaves only a rebuild."""
        for left in reversed(range(STOPS)):
            assert self.how is not None
            if self.how.method == "rebuild":
                await self.must_have_room()
            order = ReturnOrder.model_validate(
                {**self.folder_order(), "method": self.how.method, "released": self.released}
            )
            try:
                done = await self.do(data_folder.return_member, order, limit=WAIT_S, total=None, heartbeat=6.0)
                if self.how.method != "follow":
                    self.changed = self.how
                return done
            except ActivityError as error:
                if not left or kind_of(error) not in (NodeRuns.__name__, JobFailed.__name__):
                    raise
                if kind_of(error) == JobFailed.__name__ and self.how.method != "rewind":
                    raise
                self.note(reason_of(error))
                await self.stop_member()
                # Looked at anew: whatever the rewind has begun decides.
                await self.keep_what_only_it_has()
        raise AssertionError("the last round returns or raises")

    async def must_have_room(self) -> None:
        """Seen before anything is erased."""
        order = FolderOrder.model_validate(self.folder_order())
        room = await self.do(data_folder.measure_room, order, limit=300, total=600)
        why = room_for(self.member, self.record.leader, room)
        if why is not None:
            raise ApplicationError(str(NoRoom(why)), type=NoRoom.__name__)

    async def start_member(self) -> FolderResult:
        # One attempt waits for as long as it recovers; one that fails is not tried for ever in silence.
        order = FolderOrder.model_validate(self.folder_order())
        return await self.do(
            data_folder.start_standby, order, limit=WAIT_S, total=None, heartbeat=6.0, attempts=START_ATTEMPTS
        )

    async def until_it_streams(self) -> str:
        """It streams on the leader's timeline, as both say, has replayed what was there, and may start by itself."""
        order = FolderOrder.model_validate(self.folder_order())
        follow = FollowOrder(
            service=self.estate.service, leader=self.record.leader, members=[self.member], epoch=self.record.epoch
        )
        result = await self.do(fencing.follow_leader, follow, limit=30, total=120)
        if self.member not in result.following:
            self.in_vain = self.how is not None and self.how.method == "follow"
            raise ApplicationError(str(NotYet(f"{result.diverged | result.unreachable}")), type=NotYet.__name__)
        caught = await self.do(fencing.until_caught_up, follow, limit=WAIT_S, total=None, heartbeat=6.0, attempts=3)
        await self.do(data_folder.let_it_start, order, limit=30, total=120)
        cascade = await self.lead_cascade(self.member)
        return caught.evidence + (f"; {', '.join(cascade)} follow it" if cascade else "")
