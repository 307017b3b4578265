"""After a cache's failover: everybody follows, the Sentinels agree, and the old master comes home."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import cache_warming, node
    from schemas.cache_facts import CacheFacts
    from schemas.cache_orders import FollowedBy, LostKeys, LostOrder
    from schemas.orders import AnyNodeOrder
    from workflows.cache import workflow_error
    from workflows.cache_warming import Warming
    from workflows.policy import cache as policy
    from workflows.reasons import reason_of

RETURN_S = 60.0


class Returning(Warming):
    """What is done once clients are served again."""

    def __init__(self) -> None:
        super().__init__()
        self.last: CacheFacts | None = None
        """The master's own words when the watch saw it last."""
        self.lost: LostKeys | None = None
        self.others_had = 0
        """Keys that its replicas had when the run looked."""
        self.left: list[str] = []
        """What keeps the old master, or its region, from coming back."""

    @property
    def leader(self) -> str:
        assert self.elected is not None
        return self.elected.member

    def node_order(self) -> AnyNodeOrder:
        return AnyNodeOrder(
            service=self.estate.service,
            member=self.suspect,
            zone=self.estate.zone,
            run=self.record.run,
            epoch=self.record.epoch,
        )

    async def follow(self) -> FollowedBy:
        await self.settle(self.leader)
        away = [self.suspect, *await self.not_to_be_led()]
        restored = await self.restore(self.region_of(self.leader), but=away)
        away += list(restored.unreachable)
        wanted = policy.upstreams(self.estate.service, self.leader, away)
        found = await self.lead_for_good(self.leader, wanted)
        await self.have_sentinels_agree()
        self.unprotected = await self.missing()
        return found

    async def not_to_be_led(self) -> list[str]:
        """The old region's members, as long as one of its Sentinels knows the name: it would turn everybody back, since
        what Sentinels say of each other travels in the data's own stream.
        """
        old = self.region_of(self.suspect)
        if old == self.region_of(self.leader):
            return []
        forgotten = await self.monitor(old, None)
        if not forgotten.missing:
            return []
        name = self.estate.service.monitor.name
        self.left = [
            f"the members of {old} follow nobody: bring {', '.join(forgotten.missing)} back, which must forget the name"
            f" (SENTINEL REMOVE {name}); the service's watch tells them so, and leads the members"
        ]
        return [each.name for each in self.estate.service.members_of(old)]

    async def have_sentinels_agree(self) -> None:
        """They agree by themselves after an election; else all are told at once, or none: they begin at configuration
        epoch 0 then, and one that still names the old master would win.
        """
        region = self.region_of(self.leader)
        try:
            await self.until_calm(self.leader, limit=20.0)
        except ActivityError as error:
            seen = {each.sentinel: each for each in (await self.look()).sentinels}
            there = self.estate.service.sentinels_of(region)
            silent = [each.name for each in there if not seen[each.name].reachable]
            if silent:
                self.note(f"the Sentinels do not agree ({reason_of(error)}), and {', '.join(silent)} can't be told")
                return
            watching = await self.monitor(region, self.leader)
            self.note(f"the Sentinels did not agree ({reason_of(error)}), and were told: {watching.following}")

    def followed_text(self, found: FollowedBy) -> str:
        late = "".join(f"; {name} not yet: {why}" for name, why in found.missing.items())
        return f"{', '.join(found.following) or 'nobody'} follow {self.leader}{late}"

    async def protect(self) -> str:
        """The old master starts again, fenced by having no replicas, and follows: what only it has is lost then.

        Not before every Sentinel of the region names the new one: to one that was away it would be the master again.
        """
        service = self.estate.service
        if service.member(self.suspect).control is None:
            return f"left to its owner: {self.suspect} has no node control"
        if await self.not_to_be_led():
            return f"{self.suspect} stays as it is: its region's Sentinels have not forgotten the name"
        seen = {each.sentinel: each for each in (await self.look()).sentinels}
        there = service.sentinels_of(self.region_of(self.leader))
        wrong = [each.name for each in there if seen[each.name].master != self.leader]
        if wrong:
            self.left = [
                f"{self.suspect} stays stopped until {', '.join(wrong)} watch {self.leader}: bring them back, the"
                f" service's watch tells them so, then start {self.suspect}"
            ]
            self.unprotected = await self.missing()
            return f"{self.suspect} stays stopped: {', '.join(wrong)} would make it the master again"
        try:
            await self.do(node.start_node, self.node_order(), limit=45, total=RETURN_S, attempts=3)
        except (ActivityError, ApplicationError) as error:
            self.unprotected = await self.missing()
            return f"{self.suspect} does not start: {reason_of(error)}"
        await self.count_lost()
        wanted = policy.upstreams(service, self.leader)
        found = await self.lead_members(self.leader, wanted, cut=[self.suspect], enough=None, limit=20.0)
        if self.suspect in found.missing:
            raise workflow_error(f"{self.suspect}: {found.missing[self.suspect]}")
        await self.restore(self.region_of(self.leader))
        self.unprotected = await self.missing()
        return f"{self.suspect} follows {wanted[self.suspect]}; lost: {self.lost_text()}"

    async def count_lost(self) -> None:
        """The receipt, before the old master forgets: what only it has."""
        order = LostOrder.model_validate({**self.within_epoch(), "old": self.suspect, "leader": self.leader})
        try:
            found = await self.do(cache_warming.count_lost_keys, order, limit=60, total=60, attempts=1)
        except ActivityError as error:
            self.note(f"what only {self.suspect} has was not counted: {reason_of(error)}")
            return
        self.lost = found

    def lost_text(self) -> str:
        """The count, and beside it what it can't see: the verdict stands for that."""
        before = super().lost_text()
        if self.lost is None:
            return before
        # One that comes back with less than it had tells nothing of what it lost itself; the watch's last look at it
        # may be older than what its replicas had of it when the run looked.
        keys, had = self.lost.only_there, max(self.last.keys if self.last is not None else 0, self.others_had)
        if not self.lost.whole or self.lost.keys < had:
            came = f"of {max(had, self.lost.keys)} that {self.suspect} had, {self.lost.looked} could be looked at"
            return f"{before}; {keys} keys at least ({came})"
        told = f"{keys} keys that only {self.suspect} had" if keys else f"no key of {self.suspect} is missing"
        return f"{told}; of values that were overwritten, {before}"

    async def missing(self) -> list[str]:
        """What is not protected, and what must be done first."""
        return [*self.left, *await self.look_at_protection(self.leader)]
