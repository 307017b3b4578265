"""Verifying: clients are served by the new leader, and the old one acknowledges nothing."""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from schemas.decisions import Fence
    from schemas.failures import NotYet
    from workflows.database_fence import Fencing
    from workflows.database_routes import Routing


class Verifying(Fencing, Routing):
    """What follows a promotion beside a leader of before that was fenced."""

    async def verify(self) -> Fence:
        """A write and its reading back through every route from every region, and the proof that the fence holds."""
        writes, fence = await asyncio.gather(self.write_through_routes(self.promoted.member), self.prove_fence())
        self.route_writes, self.fence = writes, fence
        self.recovered = self.served_since()
        if self.recovered is None:
            raise ApplicationError(f"not served yet: {self.unserved()}", type=NotYet.__name__)
        if fence.strength == "none":
            what = "nothing is known to keep it from acknowledging" if fence.proved else "the old primary acknowledges"
            raise ApplicationError(
                f"{what}: {fence.evidence}; stop {self.suspect} by hand, then retry", type="NotFenced"
            )
        return fence
