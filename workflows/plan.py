"""The dry run of a database failover: everything is read for real, and every other step says what it would do."""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities import dns, estate, privileges
    from schemas.control import NetworkAclIsolation
    from schemas.decisions import Assessment, Go
    from schemas.orders import DnsOrder, LockQuestion, Observation, PrivilegeOrder
    from schemas.routes import FileRoute, Gate
    from workflows.database_gates import READS, Gating
    from workflows.policy import clock, ready, ready_declared, ready_servers, ready_settings
    from workflows.policy.voters import follower_names
    from workflows.reasons import reason_of


class Planning(Gating):
    """What a run would do, what stands in its way, and how long it would take."""

    async def find_blockers(self, seen: Observation, assessment: Assessment) -> list[str]:
        """Everything that would stop a failover or make it ask a person, each with who must act."""
        found = await asyncio.gather(
            self._lock(), self._gates(), self._names(), self._regions(assessment), self._privileges(seen)
        )
        early = [*self._record(seen), *self._members(seen, assessment), *self._deadline()]
        return [*early, *(text for texts in found for text in texts)]

    def _record(self, seen: Observation) -> list[str]:
        return [each.text() for each in ready.epoch_record(self.service_name, seen.record, seen.epoch_error)]

    def _members(self, seen: Observation, assessment: Assessment) -> list[str]:
        service = self.estate.service
        findings = [
            ready_servers.not_reached(facts.member, facts.error, grave=True)
            for facts in seen.members
            if not facts.reachable and facts.member != self.suspect
        ]
        for facts in seen.members:
            if facts.receiver is not None:
                findings += ready_settings.receiver_timeout(facts.member, facts.receiver.timeout_s)
        texts = [each.text() for each in findings]
        if assessment.choice.candidate is None:
            texts.append(f"nobody can be promoted: {assessment.choice.reason}")
        elif assessment.verdict.kind != "none":
            texts.append(
                f"acknowledged writes could be lost ({assessment.verdict.text()}): {assessment.verdict.reason};"
                " it would take a person's override"
            )
        elif service.synchronous.policy == "required" and not assessment.survivors:
            texts.append(
                f"no voter would be left to confirm what {assessment.choice.candidate} acknowledges, and the policy"
                " is `required`: a person must let it acknowledge alone; declare another voter, or `available`"
            )
        return texts + [each.text() for each in ready_declared.fence(service, self.suspect)]

    async def _lock(self) -> list[str]:
        holder = await self.do(estate.lock_holder, LockQuestion(service=self.service_name), total=10)
        return [ready.busy(self.service_name, holder).text()] if holder else []

    async def _gates(self) -> list[str]:
        async def look(route: Gate) -> str | None:
            try:
                await self.gate(READS, route, self.suspect, limit=4, total=6, attempts=2)
            except ActivityError as error:
                return reason_of(error)
            return None

        found = await asyncio.gather(*map(look, self.estate.service.gates()))
        return [text for text in found if text is not None]

    def _deadline(self) -> list[str]:
        """Clients that keep a name for its TTL come back so much later than the last step."""
        late = ready_declared.name_ttl(self.estate.service, clock.forecast(self.expected_s))
        return [each.text() for each in late]

    async def _privileges(self, seen: Observation) -> list[str]:
        """Of the members that answer: rights are the database's, and so the same on all of them but one that lags."""

        async def look(member: str) -> list[str]:
            order = PrivilegeOrder(service=self.estate.service, member=member)
            try:
                return await self.do(privileges.missing_privileges, order, limit=3, total=6, attempts=2)
            except ActivityError as error:
                return [f"rights that can be read: {reason_of(error)}"]

        reached = [facts.member for facts in seen.members if facts.reachable]
        lacking: dict[str, list[str]] = {}
        for member, found in zip(reached, await asyncio.gather(*map(look, reached)), strict=True):
            for what in found:
                lacking.setdefault(what, []).append(member)
        user = self.estate.service.access.user
        return [ready_servers.lacks(user, what, members).text() for what, members in lacking.items()]

    async def _names(self) -> list[str]:
        record = self.record
        order = DnsOrder(
            service=self.estate.service, zone=self.estate.zone, target=self.suspect, seen=record, wanted=record
        )
        try:
            await self.do(dns.confirm_names, order, limit=4, total=6, attempts=2, heartbeat=None)
        except ActivityError as error:
            return [reason_of(error)]
        return []

    async def _regions(self, assessment: Assessment) -> list[str]:
        return [
            ready.no_worker(region).text() for region in self.estate.vantages if region not in assessment.death.votes
        ]

    def would_tell(self) -> str:
        """The applications whose own configuration would name the candidate, and how each takes it up."""
        return "".join(
            f"; {route.name}: {route.path} in {route.region}, then {' '.join(route.reload)}"
            if isinstance(route, FileRoute)
            else f"; {route.name}: a POST to {route.url}"
            for route in self.estate.service.told()
        )

    def would_claim(self) -> str:
        zone, number = self.estate.zone, self.record.epoch
        place = zone.name if zone.epochs is None else f"s3://{zone.epochs.bucket}/{zone.epochs.prefix}"
        reserved = (
            f"; {number} is in reserve for a run that the watch starts" if self.record.run.startswith("watch/") else ""
        )
        return f"the run takes epoch {number + 1} in {place}{reserved}"

    def would_decide(self, go: Go) -> str:
        return {
            "go": f"by policy alone: {go.reason}",
            "ask": f"a person is asked: {go.reason}",
            "refuse": f"refused, and only an override on record goes on: {go.reason}",
            "stop": f"nothing is done: {go.reason}",
        }[go.action]

    def would_fence(self) -> str:
        direct = [
            m.name for m in self.estate.service.members if m.name != self.suspect and m.follows in (None, self.suspect)
        ]
        member = self.estate.service.member(self.suspect)
        control, stop = member.control, "it can't be stopped: no node control"
        if control is not None:
            by = "" if control.kind == "command" else f" by {control.kind.upper()}"
            stop = f"stop it{by} ({' '.join(control.stop)})"
            stop += f", else kill it ({' '.join(control.kill)})" if control.kill else ""
        if isinstance(member.isolation, NetworkAclIsolation):
            stop += f"; cut {member.isolation.subnet_id} off by network ACL {member.isolation.deny_acl_id}"
        elif member.isolation is not None:
            stop += f"; stop its instance {member.isolation.instance_id}"
        return (
            f"disconnect {', '.join(direct)} from {self.suspect}; stall it and end its sessions if it answers; {stop}"
        )

    def would_promote(self, assessment: Assessment) -> str:
        candidate = assessment.choice.candidate
        _, names = follower_names(self.estate.service, assessment.survivors)
        after = f"once {', '.join(assessment.survivors)} has its position" if assessment.survivors else "at once"
        alone = "" if names else "; it acknowledges alone until a voter streams"
        return f"{candidate} starts with synchronous_standby_names = {names or 'none'}, and is promoted {after}{alone}"
