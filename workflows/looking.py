"""Looking: who is dead, and what every region sees of a service; one region's view alone settles nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities import manifest, probes, survey
    from schemas.decisions import Death
    from schemas.facts import Probe
    from schemas.manifest import Manifest, ManifestOrder
    from schemas.orders import Estate, Observation, ProbeOrder
    from schemas.requests import FailoverRequest, Suspicion
    from workflows.policy.death import judge_death
    from workflows.policy.merge import clearest, merge_observations
    from workflows.procedure import Procedure
    from workflows.reasons import reason_of
    from workflows.runbook import NO_WORKER_S, WAIT_S, Ended

Order = TypeVar("Order")
Result = TypeVar("Result")

CONFIRM_ROUNDS = 8
"""How often the vantages and the standbys are asked again while a receiver is not yet silent for long enough."""


class Looking(Procedure):
    """How a runbook on one PostgreSQL service looks at it."""

    estate: Estate
    estate_type = Estate
    kind = "database"

    def __init__(self) -> None:
        super().__init__()
        self._vigil: dict[str, asyncio.Future[Probe | None]] = {}

    async def probe_from(self, region: str, member: str) -> Probe | None:
        """One region's probe; None when no worker of the region took it in time."""
        order = ProbeOrder(service=self.estate.service, member=member, region=region)
        return await self.from_region(region, probes.probe, order, limit=5)

    def begin_vigil(self) -> None:
        """Every region watches, while a person decides, that nothing listens at the suspect's port again."""

        async def until_open(region: str) -> Probe | None:
            order = ProbeOrder(service=self.estate.service, member=self.suspect, region=region)
            try:
                return await self.do(
                    probes.stays_closed,
                    order,
                    region=region,
                    limit=WAIT_S,
                    total=None,
                    attempts=1,
                    waits_for_worker=NO_WORKER_S,
                )
            except ActivityError:
                return None

        if not self._vigil:
            self._vigil = {region: asyncio.ensure_future(until_open(region)) for region in self.estate.vantages}

    def vigil_holds(self) -> bool:
        """Whether a region has watched it all the time, and none saw it alive."""
        ended = [watching for watching in self._vigil.values() if watching.done()]
        seen = [watching.result() for watching in ended if not watching.cancelled()]
        alive = any(probe is not None and probe.outcome in ("alive", "refused") for probe in seen)
        return len(ended) < len(self._vigil) and not alive

    def calm(self) -> None:
        super().calm()
        for watching in self._vigil.values():
            watching.cancel()
        self._vigil = {}

    async def observe(self) -> Observation:
        return await self.do(survey.observe, self.estate, limit=4, total=20, heartbeat=None)

    async def observe_everywhere(self) -> Observation:
        """From every region: a worker that is cut off from a part of the estate would call it dead."""
        views = await self.from_everywhere(survey.observe, self.estate, limit=4)
        self.effects_from = clearest(views) or self.effects_from
        return merge_observations(list(views.values()) or [await self.observe()])

    def suspect_of(self, seen: Observation) -> str:
        """Who leads by the record; without one, the only member that is no standby; else the declared home."""
        if seen.record is not None:
            return seen.record.leader
        leading = [facts.member for facts in seen.members if facts.reachable and not facts.in_recovery]
        return leading[0] if len(leading) == 1 else self.estate.service.home

    def leader_of(self, seen: Observation) -> str:
        """Who leads, or else should."""
        return seen.led_by or self.suspect_of(seen)

    async def confirm(self, request: FailoverRequest) -> tuple[Death, Observation]:
        """Probes from every region beside the standbys' testimony; judged as soon as enough has come in."""
        suspicion = request.suspicion
        if suspicion is None:
            self.suspect = self.suspect_of(await self.observe_everywhere())
            death, seen, first_failure = await self.ask_around([], None)
        else:
            self.suspect = suspicion.member
            if suspicion.cut_off:
                whole = [region for region in self.estate.vantages if region not in suspicion.cut_off]
                self.effects_from = next(iter(whole), None)
            death, seen, first_failure = await self.hear_watch(suspicion)
        if seen.record is not None and suspicion is not None and seen.record.leader != self.suspect:
            raise Ended("not needed", f"{self.suspect} leads no more; {seen.record.leader} does")
        if death.state != "alive" and first_failure is not None:
            self.start_clock(first_failure)
        if self.detected is None:
            self.detected = workflow.now()
        return death, seen

    async def hear_watch(self, suspicion: Suspicion) -> tuple[Death, Observation, datetime | None]:
        """What the watch saw a moment ago is enough where it settles the question; else everybody is asked again."""
        detection = self.estate.service.detection
        limit = timedelta(seconds=2 * (detection.interval_s + detection.probe_timeout_s))
        # The watch may have waited since, for the end of a block period or of another run.
        votes = [vote for vote in suspicion.votes if workflow.now() - vote.at <= limit]
        if suspicion.seen is not None and len(votes) >= detection.quorum:
            death = self.judge(votes, suspicion.seen, suspicion.first_failure)
            if death.state == "dead":
                return death, suspicion.seen, suspicion.first_failure
        return await self.ask_around(votes, suspicion.first_failure)

    async def ask_around(
        self, votes: Sequence[Probe], first_failure: datetime | None
    ) -> tuple[Death, Observation, datetime | None]:
        """Every region and every standby, again while a receiver is not yet silent for long enough."""
        self.estate.service.member(self.suspect)
        seen: Observation | None = None
        death = Death(state="ask", reason="nothing was seen")
        for _ in range(CONFIRM_ROUNDS):
            looking = asyncio.ensure_future(self.observe_everywhere())
            # The watch's own votes are a moment old: they are heard first, and every region is asked again only if
            # they, with what the standbys say, do not settle it.
            asking = [
                asyncio.ensure_future(self.probe_from(region, self.suspect))
                for region in (self.estate.vantages if len(votes) < self.estate.service.detection.quorum else [])
            ]
            pending: Sequence[asyncio.Future[Any]] = [looking, *asking]
            while pending and death.state != "dead":
                _, pending = await workflow.wait(list(pending), return_when=asyncio.FIRST_COMPLETED)
                if looking.done():
                    seen = looking.result()
                    answers = [each.result() for each in asking if each.done()]
                    known = [*votes, *(answer for answer in answers if answer is not None)]
                    death = self.judge(known, seen, first_failure)
                    failed = [vote.at for vote in known if vote.outcome in ("refused", "timeout")]
                    if first_failure is None and failed:
                        first_failure = min(failed)
            if death.state == "dead" or (not votes and death.state != "wait"):
                break
            votes = []
            if death.state == "wait":
                await workflow.sleep(timedelta(seconds=max(death.wait_s, 0.05)), summary="until silence is proof")
        if death.state == "wait":
            death = death.model_copy(update={"state": "ask"})
        assert seen is not None
        return death, seen, first_failure

    def judge(self, votes: Sequence[Probe], seen: Observation, first_failure: datetime | None) -> Death:
        return judge_death(self.estate.service, self.suspect, votes, seen.members, first_failure=first_failure)

    async def is_dead(self, member: str) -> bool:
        """Whether a member is dead by the same rule as a primary."""
        seen = await self.observe_everywhere()
        votes = await asyncio.gather(*(self.probe_from(region, member) for region in self.estate.vantages))
        known = [vote for vote in votes if vote is not None]
        return judge_death(self.estate.service, member, known, seen.members, first_failure=None).state == "dead"

    async def write_manifest(self, leader: str) -> Manifest | None:
        """What the leader's tables hold, written down in it; None, with a note, where that can't be had."""
        info = workflow.info()
        order = ManifestOrder(service=self.estate.service, leader=leader, run=f"{info.workflow_id}@{info.run_id}")
        try:
            return await self.do(manifest.write_manifest, order, limit=15, total=20)
        except ActivityError as error:
            self.note(f"no manifest of the tables was written: {reason_of(error)}")
            return None
