"""How a service that was made read-only takes writes again: a share of its sessions, then all of them, held by health.

Whatever comes in between, a stage that does not hold ends with clients that read and can't write.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import damage, pooler_shares
    from schemas.damage import Damaged, DamageEvidence
    from schemas.damage_orders import CheckOrder, PulseOrder, ReadOnlyOrder, ShareOrder
    from schemas.restores import Proof
    from schemas.routes import PgBouncerRoute
    from workflows.policy import damage as policy
    from workflows.reasons import reason_of
    from workflows.restoring import Restoring


class Gradual(Restoring):
    """Read-only and back, in stages."""

    def __init__(self) -> None:
        super().__init__()
        self.damage = DamageEvidence()
        self.repair = policy.Repair(kind="none", reason="")
        self.isolated = False
        self.repaired: list[Damaged] = []
        """What is looked at again while clients write."""
        self.held_share = 0.0
        """The largest that has held so far: a step that is tried again begins after it."""

    def poolers(self) -> list[PgBouncerRoute]:
        """The doors that can let a share in."""
        return [route for route in self.estate.service.routes if isinstance(route, PgBouncerRoute)]

    # Read-only, for some or for all

    async def set_read_only(self, member: str, *, on: bool, cut: bool = True) -> str:
        order = ReadOnlyOrder(service=self.estate.service, leader=member, on=on, cut=cut)
        return await self.do(damage.make_read_only, order, limit=15, total=60 if on else 120)

    async def draw(self, share: float) -> tuple[list[str], list[str]]:
        """At every pooler at once: what was done, and what failed. One that is out of reach serves nobody."""
        orders = [ShareOrder(service=self.estate.service, route=each, share=share) for each in self.poolers()]
        acts = (self.do(pooler_shares.let_share_write, each, limit=10, total=20) for each in orders)
        found = await asyncio.gather(*acts, return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException) and not isinstance(each, ActivityError):
                raise each
        failed = [reason_of(each) for each in found if isinstance(each, BaseException)]
        return [each for each in found if isinstance(each, str)], failed

    async def let_share_in(self, share: float) -> str:
        done, failed = await self.draw(share)
        for each in failed:
            self.note(f"no share through one pooler: {each}")
        if not done:
            raise ApplicationError("; ".join(failed))
        return "; ".join(done)

    async def let_write(self) -> str:
        """Whoever leads, and then every other, since one that led may follow by now: nobody waits for those."""
        if not self.isolated:
            return "clients write as before"
        seen = await self.observe()
        leader = self.leader_of(seen)
        told = [await self.set_read_only(leader, on=False)]
        for each in seen.members:
            if each.member == leader:
                continue
            try:
                if not each.reachable:
                    raise ApplicationError(each.error or "it is out of reach")
                told.append(await self.set_read_only(each.member, on=False))
            except (ActivityError, ApplicationError) as error:
                self.unprotected.append(
                    f"{each.member} may be read-only once it leads: {reason_of(error)}; its owner must"
                    " ALTER SYSTEM RESET default_transaction_read_only there, and reload"
                )
        return "; ".join(told)

    async def back_to_read_only(self) -> str:
        """The undo of every stage: no new session draws, and those that did are ended, on whoever leads by then."""
        _, failed = await self.draw(0.0)
        leader = self.leader_of(await self.observe())
        # Whatever a pooler says: this alone takes from sessions what they have drawn.
        told = await self.set_read_only(leader, on=True)
        if failed:
            raise ApplicationError("; ".join(failed))
        return told

    # The stages

    async def let_shares_in(self) -> str:
        """One share after the other, each held by health."""
        if not self.isolated:
            return "clients write as before"
        if self.repair.kind in ("none", "person"):
            return "nothing was repaired here, so that there is nothing to try a share on"
        if not self.poolers():
            return "no route is a PgBouncer, and no other can let a share in: from reads to all writes"
        for share in self.estate.service.corruption.shares:
            if share > self.held_share:
                self.note(await self.stage(share, functools.partial(self.let_share_in, share)))
                self.held_share = share
        shares = ", ".join(f"{each:.0%}" for each in self.estate.service.corruption.shares)
        return f"{shares} of new sessions, each for {self.estate.service.corruption.hold_s:g} s" if shares else "none"

    async def let_all_in(self) -> str:
        if not self.isolated:
            return "clients write as before"
        if self.repair.kind in ("none", "person"):
            return await self.let_write()
        told = await self.stage(1.0, self.let_write)
        _, failed = await self.draw(0.0)
        self.unprotected += [f"sessions may still draw whether they write: {each}" for each in failed]
        return told

    async def stage(self, share: float, let_in: Callable[[], Awaitable[str]]) -> str:
        """Let a share in and watch it; one that does not do well is taken back, and a person must look."""
        leader = self.leader_of(await self.observe())
        try:
            done = await let_in()
            await self.stay_well(leader, share)
        except (ActivityError, ApplicationError) as error:
            told = f"with {share:.0%} of writes: {reason_of(error)}"
            try:
                back = await self.back_to_read_only()
            except (ActivityError, ApplicationError) as failed:
                raise ApplicationError(
                    f"{told}; and whether clients write is not known: {reason_of(failed)}"
                ) from error
            raise ApplicationError(f"{told}; {back} again") from error
        return f"{share:.0%} of writes: {done}"

    async def stay_well(self, leader: str, share: float) -> None:
        """The owner's queries and what was repaired, at once and at the end; the server's counters all the while."""
        corruption = self.estate.service.corruption
        order = PulseOrder(service=self.estate.service, leader=leader, hold_s=corruption.hold_s)
        limit = corruption.hold_s + 30
        watching = asyncio.ensure_future(
            self.do(damage.watch_writes, order, limit=limit, total=3 * limit, heartbeat=5.0)
        )
        try:
            await self.must_answer(leader)
            pulse = await watching
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        if why := policy.unwell(pulse, share, corruption.max_rollbacks):
            raise ApplicationError(why)
        if share < 1 and not pulse.read_only:
            self.note(f"{leader} takes all writes already: it came to lead meanwhile")
        await self.must_answer(leader)

    async def must_answer(self, leader: str) -> None:
        wrong = [each for each in await self.ask_owner(leader, self.repaired) if each.ok is False]
        if wrong:
            raise ApplicationError("; ".join(f"{each.clause}: {each.evidence}" for each in wrong))

    async def ask_owner(self, leader: str, relations: list[Damaged] | None = None) -> list[Proof]:
        order = self.check_of(leader).model_copy(update={"relations": relations or []})
        return await self.do(damage.ask_leader, order, limit=3600, total=7200, heartbeat=10.0)

    def check_of(self, member: str) -> CheckOrder:
        """A check of its own each time: what an earlier one found is of the past."""
        run = f"{workflow.info().workflow_id}/{workflow.now().timestamp():.3f}"
        return CheckOrder(service=self.estate.service, member=member, run=run)
