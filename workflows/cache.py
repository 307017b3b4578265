"""What the cache runbooks share: looking, the choice with the names, leading replicas, verifying, the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import cache_elections, cache_fencing, cache_moves, cache_probes, cache_survey
    from schemas.cache_facts import CacheSeen
    from schemas.cache_orders import (
        CacheVerifyOrder,
        CalmOrder,
        Elected,
        FollowedBy,
        FollowMasterOrder,
        MonitorOrder,
        MoveOrder,
        Restored,
        RestoreOrder,
        UnfenceOrder,
    )
    from schemas.decisions import Assessment
    from schemas.facts import RouteWrite
    from schemas.failures import EpochUnavailable, NotYet
    from schemas.orders import CacheEstate
    from workflows.by_name import LeadingByName
    from workflows.policy.cache_seen import merge_seen
    from workflows.reasons import kind_of, reason_of


UNFENCE_S = 10.0
"""Two Sentinels' `down-after`: a master that can't be told for so long is no master any more."""


LOOKS = 3
ROUNDS = 4
"""Of leading and forgetting; the first one forgets as a rule, and the second finds nothing more."""


class CacheRunbook(LeadingByName):
    """A runbook on one cache under Sentinel, behind its epoch."""

    estate: CacheEstate
    estate_type = CacheEstate
    kind = "cache"
    assessment: Assessment

    def __init__(self) -> None:
        super().__init__()
        self.candidate = ""
        self.elected: Elected | None = None
        self.recorded = True
        """False: the epoch store is out of reach in the middle of a run that undoes, and nobody was promoted."""
        self.asked_sentinels = False
        """One was, or may have been, told to elect."""

    # What a report tells

    def leads_now(self) -> str | None:
        return self.elected.member if self.elected is not None else None

    def lost_text(self) -> str:
        if self.elected is None:
            return ""
        verdict = self.assessment.verdict
        if verdict.kind == "none":
            return "nothing acknowledged was lost"
        return "unknown" if verdict.kind == "unknown" else f"unknown, {verdict.text().removeprefix('bounded: ')}"

    # Looking

    async def look(self) -> CacheSeen:
        """From every region: a worker that is cut off from a part of the estate would call it dead.

        An epoch store that nobody could read is asked again: a name server may lie on a change for a second.
        """
        seen: CacheSeen | None = None
        for _ in range(LOOKS):
            views = await self.from_everywhere(cache_survey.observe_cache, self.estate, limit=4)
            seen = merge_seen(list(views.values())) if views else None
            if seen is not None and not seen.epoch_error:
                return seen
            await workflow.sleep(timedelta(seconds=0.5), summary="before the epoch store is asked again")
        if seen is not None:
            return seen
        return await self.do(cache_survey.observe_cache, self.estate, limit=4, total=20, heartbeat=None)

    def region_of(self, member: str) -> str:
        return self.estate.service.member(member).region

    # Acts that several runbooks have, each within the run's epoch

    def within_epoch(self) -> dict[str, object]:
        return {
            "service": self.estate.service,
            "zone": self.estate.zone,
            "epoch": self.record.epoch,
            "recorded": self.recorded,
        }

    async def restore(self, serving: str, *, but: Sequence[str] = (), preferred: str | None = None) -> Restored:
        order = RestoreOrder.model_validate(
            {**self.within_epoch(), "serving": serving, "but": list(but), "preferred": preferred}
        )
        return await self.do(cache_fencing.restore_fences, order, limit=20, total=60)

    async def until_calm(self, leader: str, preferred: str | None = None, limit: float = 15.0) -> str:
        order = CalmOrder(
            service=self.estate.service,
            region=self.region_of(leader),
            leader=leader,
            preferred=preferred,
            limit_s=limit,
        )
        return await self.do(cache_elections.until_calm, order, limit=limit + 10, total=2 * limit + 20, attempts=2)

    async def claim_once(self) -> None:
        """Whatever is undone is done behind a newer epoch than what was done: late attempts change nothing.

        Without the store it is undone all the same: clients can't take writes anywhere, and nobody was promoted.
        """
        if self._undo_claimed:
            return
        try:
            self.record = await self.claim_after(self.record, " (undo)")
            self._undo_claimed = self.recorded = True
        except ActivityError as error:
            if kind_of(error) != EpochUnavailable.__name__:
                raise
            self.recorded = False
            self.note(f"undone without the epoch store: {reason_of(error)}")

    async def lead_members(
        self,
        leader: str,
        upstreams: Mapping[str, str],
        *,
        cut: Sequence[str] = (),
        enough: int | None,
        limit: float = 5.0,
    ) -> FollowedBy:
        """Replicas of the leader, as far as they can be told."""
        order = FollowMasterOrder.model_validate(
            {
                **self.within_epoch(),
                "leader": leader,
                "upstreams": dict(upstreams),
                "cut": list(cut),
                "enough": enough,
                "limit_s": limit,
            }
        )
        return await self.do(cache_moves.follow_master, order, limit=limit + 15, total=2 * limit + 40)

    async def monitor(self, region: str, leader: str | None) -> FollowedBy:
        order = MonitorOrder.model_validate({**self.within_epoch(), "region": region, "leader": leader})
        return await self.do(cache_moves.set_monitor, order, limit=20, total=60)

    async def lead_for_good(self, leader: str, upstreams: Mapping[str, str]) -> FollowedBy:
        """Every member follows, and no Sentinel knows a replica of another region, which the leader fed before it led.

        One that does leads that replica back to the leader, even while the others are forgetting it (seen): so again,
        until nothing had to be forgotten once all followed.
        """
        order = MonitorOrder.model_validate({**self.within_epoch(), "region": self.region_of(leader), "leader": leader})
        rounds = 0
        while True:
            found = await self.lead_members(leader, upstreams, enough=None, limit=20.0)
            forgotten = await self.do(cache_moves.forget_strangers, order, limit=40, total=60)
            rounds += 1
            if not (forgotten.reset or forgotten.missing) or rounds == ROUNDS:
                break
        if forgotten.missing:
            self.note(f"Sentinels that know replicas of other regions: {forgotten.missing}")
        return found

    async def promote_alone(self, old: str, new: str) -> Elected:
        order = MoveOrder.model_validate({**self.within_epoch(), "old": old, "new": new})
        return await self.do(cache_moves.promote_alone, order, limit=8, total=30)

    async def unfence(self, member: str) -> str:
        """However long it takes while it is a master that can be told: nobody takes writes until then. One that is gone
        is a failover's, which waits for the end of this run.
        """
        order = UnfenceOrder.model_validate({**self.within_epoch(), "member": member, "asked": self.asked_sentinels})
        while True:
            try:
                found = await self.do(cache_fencing.unfence_master, order, limit=10, total=UNFENCE_S, heartbeat=None)
                return found.evidence
            except ActivityError as error:
                facts = (await self.look()).of(member)
                if not facts.reachable or facts.role != "master":
                    raise
                self.note(f"{member} is told again: {reason_of(error)}")

    # Routes

    async def write_through_routes(self, leader: str, *, by_sentinels: bool = True) -> list[RouteWrite]:
        """Every region that has a worker writes through every name, and asks the Sentinels."""

        def order_of(region: str) -> CacheVerifyOrder:
            return CacheVerifyOrder(
                service=self.estate.service,
                zone=self.estate.zone,
                region=region,
                run=workflow.info().workflow_id,
                expected=leader,
                by_sentinels=by_sentinels,
            )

        return await self.written_from_everywhere(cache_probes.verify_cache_routes, order_of, limit=15)

    async def verify_leader(self, leader: str) -> str:
        """Every route serves the leader: each must be seen good by a region. Where no Sentinel is left, clients that
        ask them wait for the first that comes back, and nobody else waits for it.
        """
        found = self.route_writes = await self.write_through_routes(leader)
        asked = [write.error for write in found if write.route == cache_probes.SENTINELS]
        silent = bool(asked) and all(error == cache_probes.NO_SENTINEL for error in asked)
        if silent:
            self.route_writes = [write for write in found if write.route != cache_probes.SENTINELS]
        self.recovered = self.served_since()
        if self.recovered is None:
            raise workflow_error(f"not every route serves {leader}: {self.unserved()}")
        self.route_writes = found
        names = ", ".join(route.name for route in self.estate.service.routes)
        if silent:
            return f"{names} serves {leader}; {cache_probes.NO_SENTINEL}, so that clients which ask them find nobody"
        return f"every route serves {leader}: {names}, Sentinels"

    async def after_undo(self) -> None:
        """When the old master served clients again is measured, and not assumed."""
        self.route_writes = await self.write_through_routes(self.suspect)
        self.recovered = self.served_since()
        if self.recovered is None:
            self.tasks.append(f"clients are not served: {self.unserved()}")

    async def look_at_protection(self, leader: str) -> list[str]:
        """What keeps the cache from being as it is declared."""
        seen = await self.look()
        missing = []
        for member in self.estate.service.members:
            facts = seen.of(member.name)
            if member.name == leader:
                continue
            if not facts.reachable:
                missing.append(f"{member.name} is not reached ({facts.error}): start it")
            elif facts.role != "replica" or not facts.link_up:
                missing.append(f"{member.name} does not follow {leader} yet")
        region = self.region_of(leader)
        ours = [each.name for each in self.estate.service.members_of(region)]
        watching = {each.sentinel: each for each in seen.sentinels}
        for sentinel in self.estate.service.sentinels_of(region):
            facts_of = watching[sentinel.name]
            if not facts_of.reachable:
                missing.append(f"{sentinel.name} is not reached ({facts_of.error}): start it")
            elif facts_of.master != leader or facts_of.down_after_s != self.estate.service.monitor.down_after_s:
                wrong = f"{facts_of.master or 'nobody'}, down after {facts_of.down_after_s:g} s"
                missing.append(f"{sentinel.name} watches {wrong}: a procedure's run sets it")
            elif facts_of.knows_others_than(ours):
                name = self.estate.service.monitor.name
                missing.append(
                    f"{sentinel.name} knows a replica of another region, and would lead it to {leader}:"
                    f" SENTINEL RESET {name} there once that replica follows another"
                )
        return missing


def workflow_error(text: str) -> ApplicationError:
    """What a step failed with that no activity failed with."""
    return ApplicationError(str(NotYet(text)), type=NotYet.__name__)
