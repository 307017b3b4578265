"""The same words for the cache: its servers and Sentinels are looked at, and the referee has the last word."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from typing import Any

from activities.cache_fencing import declared
from activities.cache_survey import look_around
from activities.topology import load_topology
from lab import cache, cache_referee, findings, ledger, resp
from lab.cache_referee import CacheAudit
from lab.errors import LabError
from lab.lab import fault
from lab.layout import CACHE, CACHE_HOME, MONITORED
from lab.owner import give
from schemas.cache import CacheService
from schemas.cache_facts import CacheFacts, CacheSeen
from schemas.cache_requests import CacheFailoverRequest
from schemas.orders import CacheEstate
from schemas.reports import Report
from schemas.requests import CandidateRequest, RunRequest
from tests.faults.scene import Run, Scene
from workflows.policy.cache import upstreams

EAST, WEST = "us-east-1", "us-west-2"
EASTERN = tuple(f"sentinel-east-{number}" for number in range(1, 5))
BOUND_S = 4.0
"""What a verdict of the lab's says in seconds: max-lag 2, in whole seconds, looked at once a second."""
NEAR = ("cache-east-2", "cache-east-3", "cache-east-4")
"""Who may lead beside the home master while the region is there."""


class CacheScene(Scene):
    """A lab with the cache under test."""

    procedure = "CacheFailover"

    def estate(self) -> CacheEstate:
        topology = load_topology(self.lab.topology)
        service = topology.service(CACHE)
        assert isinstance(service, CacheService)
        return CacheEstate(service=service, zone=topology.zone, vantages=topology.vantages(service))

    async def ask(self, name: str, *words: str) -> resp.Reply:
        return await cache.ask(self.lab, name, *words)

    # Faults

    async def segfault(self, member: str) -> None:
        """The strategy's own: the server ends itself, and answers nobody."""
        try:
            await self.ask(member, "DEBUG", "SEGFAULT")
        except LabError:
            return
        raise AssertionError(f"{member} answered")

    async def fault(self, action: str, *names: str, force: bool = False) -> None:
        for name in names:
            await fault(self.lab, action, name, force=force)

    def empty(self, member: str) -> None:
        """A server's disk is lost; it must not run."""
        data = self.lab.paths.data(member)
        shutil.rmtree(data)
        data.mkdir(mode=0o700)
        give(data)

    # Runs

    async def start(self, run: str = "cache-failover", *, approval: str = "policy", **more: Any) -> Run:
        given = {"service": CACHE, "reason": "a test", "approval": approval, **more}
        return await self.begin("CacheFailover", CacheFailoverRequest.model_validate(given), run)

    async def switch(self, candidate: str | None = None, run: str = "cache-switchover", **more: Any) -> Run:
        given = {"service": CACHE, "reason": "a test", "candidate": candidate, **more}
        return await self.begin("CacheSwitchover", CandidateRequest.model_validate(given), run)

    async def failback(self, run: str = "cache-failback", **more: Any) -> Run:
        given = {"service": CACHE, "reason": "a test", **more}
        return await self.begin("CacheFailback", RunRequest.model_validate(given), run)

    async def runs(self) -> list[str]:
        query = f"WorkflowType = '{self.procedure}' AND StartTime > '{self.since.isoformat()}'"
        found = [(each.start_time, each.id) async for each in self.client.list_workflows(query)]
        return [run for _, run in sorted(found) if run.startswith("cache-failover/")]

    async def run_of_watch(self, number: int = 1, limit: float = 40.0) -> Run:
        async def found() -> list[str]:
            runs = await self.runs()
            return runs if len(runs) >= number else []

        runs = await self.until("the watch starts a failover", found, limit)
        return self.client.get_workflow_handle(runs[number - 1], result_type=Report)

    async def report(self, run: Run, limit: float = 60.0) -> Report:
        return await super().report(run, limit)

    # Looking

    async def seen(self) -> CacheSeen:
        estate = self.estate()
        return await look_around(estate.service, estate.zone)

    async def facts(self, member: str) -> CacheFacts:
        return (await self.seen()).of(member)

    async def master_by(self, sentinel: str) -> str:
        """Whom a Sentinel names, as an operator asks it; "" for nobody."""
        try:
            told = await self.ask(sentinel, "SENTINEL", "MASTER", MONITORED)
        except LabError as error:
            return "" if "No such master" in error.detail else f"? {error.detail}"
        assert isinstance(told, list)
        fields = dict(zip(told[::2], told[1::2], strict=True))
        found = [node.name for node in self.lab.of_kind("redis") if node.address == f"{fields['ip']}:{fields['port']}"]
        return found[0] if found else f"{fields['ip']}:{fields['port']}"

    async def sentinels_watch(self, leader: str | None) -> None:
        """Those of the east come to name the leader, each of them."""

        async def all_of_them() -> bool:
            return {await self.master_by(each) for each in EASTERN} == {leader or ""}

        await self.until(f"the Sentinels of the east watch {leader or 'nobody'}", all_of_them)

    async def health(self) -> int:
        """The status code of the health endpoint."""

        def ask() -> int:
            try:
                with urllib.request.urlopen(self.lab.health()[CACHE], timeout=10) as answer:
                    json.load(answer)
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code

        return await asyncio.to_thread(ask)

    async def otherwise(self, leader: str, but: Collection[str] = ()) -> list[str]:
        """What is not as the topology declares it while `leader` leads: roles, links, Sentinels, the record, and the
        settings of all `but` some.
        """
        seen, service = await self.seen(), self.estate().service
        region = service.member(leader).region
        wrong = []
        wanted = upstreams(service, leader)
        for member in service.members:
            facts = seen.of(member.name)
            if not facts.reachable:
                wrong.append(f"{member.name} is not reached: {facts.error}")
                continue
            follows = "" if member.name == leader else wanted[member.name]
            if (facts.role, facts.follows) != ("replica" if follows else "master", follows):
                wrong.append(f"{member.name} is a {facts.role} of {facts.follows or 'nobody'}, not of {follows}")
            elif follows and not facts.link_up:
                wrong.append(f"{member.name} has no link to {follows}")
            if member.name in but:
                continue
            settings = declared(service, member, region, None)
            found = {
                "min-replicas-to-write": str(facts.min_replicas),
                "min-replicas-max-lag": str(facts.max_lag_s),
                "replica-priority": str(facts.priority),
                "replica-announced": "yes" if facts.announced else "no",
            }
            wrong += [
                f"{member.name}: {name} {found[name]}, not {settings[name]}"
                for name in found
                if found[name] != settings[name]
            ]
        for sentinel in service.sentinels:
            told = next(each for each in seen.sentinels if each.sentinel == sentinel.name)
            named = leader if sentinel.region == region else ""
            if told.knows_others_than([each.name for each in service.members_of(region)]):
                wrong.append(f"{sentinel.name} knows {told.replicas} replicas: {sorted(told.priorities)}")
            if not told.reachable or told.master != named:
                wrong.append(
                    f"{sentinel.name} watches {told.master or told.error or 'nobody'}, not {named or 'nobody'}"
                )
        if seen.record is None or (seen.record.leader, seen.record.candidate) != (leader, None):
            wrong.append(f"the record is {seen.record}")
        return wrong

    async def as_declared(self, leader: str, limit: float = 25.0, but: Collection[str] = ()) -> None:
        """Sentinels tell each other, and a replica that was told to follow another links up within a second or two."""
        end = time.monotonic() + limit
        while wrong := await self.otherwise(leader, but):
            assert time.monotonic() < end, "; ".join(wrong)
            await asyncio.sleep(0.2)

    # What must hold

    async def audit(self) -> CacheAudit:
        return await cache_referee.audit(self.lab)

    async def serving(self, since: float | None = None) -> bool:
        """Whether every route has acknowledged a write that was sent after `since` (now)."""
        since = since or time.time()

        async def all_routes() -> bool:
            written = findings.acknowledged(ledger.read(self.lab.ledger))
            return {each.route for each in written if (each.sent or 0) > since} >= set(self.lab.routes_of("cache"))

        return bool(await self.until("every route writes again", all_routes))

    def acknowledged_between(self, start: float, end: float) -> int:
        """Writes that clients were told are kept, in these seconds."""
        return sum(start < (each.acked or 0) <= end for each in findings.acknowledged(ledger.read(self.lab.ledger)))

    async def safe(self, *, writing: bool = True, limit: float = 30.0, bound: int = 0) -> CacheAudit:  # type: ignore[override]
        """At most `bound` of what was acknowledged is missing, nothing of what WAIT counted, and one server writes."""
        if writing:
            await self.serving()
        found = await self.audit()
        assert found.errors == [], found
        assert found.missing is not None, found
        assert found.missing <= bound, found
        assert found.waited_missing == 0, found
        assert found.concurrent_writers == 0, found
        assert found.acknowledged > 0, found
        return found

    async def lost_within_the_verdict(self, report: Report, died: float) -> CacheAudit:
        """What is missing was acknowledged in the verdict's last seconds before the master's death, at most."""
        assert report.assessment is not None
        verdict = report.assessment.verdict
        assert verdict.kind == "bounded", report
        assert verdict.at_most_s is not None
        return await self.safe(bound=self.acknowledged_between(died - verdict.at_most_s, died))

    async def moved(self, report: Report, to: str, *, outcome: str = "done") -> None:
        """Who led follows, and everything is as declared with the new master."""
        assert report.outcome == outcome, report
        assert (report.new_primary, report.unprotected, report.tasks) == (to, [], []), report
        await self.as_declared(to)

    async def stayed(
        self, report: Report, leader: str = CACHE_HOME, *, outcome: str = "undone", but: Collection[str] = ()
    ) -> None:
        """Nobody was promoted: the old master takes writes, and no setting is left of the run, of all `but` some."""
        assert report.outcome == outcome, report
        assert (report.new_primary, report.tasks) == (None, []), report
        await self.as_declared(leader, but=but)
        await self.safe()
